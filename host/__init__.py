# SPDX-License-Identifier: GPL-2.0-or-later
"""How QGIS reaches the engine: the interpreter, the process that runs a job, and layers turned into files."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""Catalogues of checkpoints: read, fetched from, and made. Standard library alone, Python 3.9: QGIS uses it too."""

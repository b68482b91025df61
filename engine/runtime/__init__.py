# SPDX-License-Identifier: GPL-2.0-or-later
"""What every job shares: the device, outputs and unfinished work, memory, versions."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""The version of Lacuna, the same as in `metadata.txt` and `pyproject.toml` (a test compares them)."""

__version__ = "0.1.0"

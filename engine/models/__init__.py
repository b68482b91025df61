# SPDX-License-Identifier: GPL-2.0-or-later
"""Architectures, one a file, behind one contract. Knows nothing of rasters or files."""

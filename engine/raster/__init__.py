# SPDX-License-Identifier: GPL-2.0-or-later
"""Rasters: grids, sources, scenes of several sources on one grid, tiles, writing, polygons. Knows nothing of models."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine of Lacuna: rasters, models, training and inference. Imports neither qgis nor Qt."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""Lacuna: classify a scene from several rasters at once, and keep working where one of them is missing."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""The version of Lacuna and the packages that its engine needs; tests compare both with `pyproject.toml`."""

__version__ = "0.1.0"

# As they are imported; `pyproject.toml` says from which version on.
PACKAGES = ("torch", "rasterio", "numpy", "safetensors", "pyogrio", "shapely", "sklearn")

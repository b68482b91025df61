# SPDX-License-Identifier: GPL-2.0-or-later
"""The version of Lacuna and the packages that its engine needs; tests compare both with `pyproject.toml`."""

__version__ = "0.1.0"

# What they are called in an import, and by pip; `pyproject.toml` says from which version on.
PACKAGES = {
    "torch": "torch",
    "rasterio": "rasterio",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "pyogrio": "pyogrio",
    "shapely": "shapely",
    "sklearn": "scikit-learn",
}

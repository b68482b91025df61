# SPDX-License-Identifier: GPL-2.0-or-later
"""The versions of what decides a result, for run records and cards."""

from __future__ import annotations

import platform

import numpy
import rasterio
import torch

from ..version import __version__


def library_versions() -> dict[str, str]:
    """Return the versions of Lacuna, Python and the libraries that decide the result."""
    return {
        "lacuna": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "rasterio": rasterio.__version__,
        "gdal": rasterio.__gdal_version__,
    }

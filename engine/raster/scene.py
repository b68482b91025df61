# SPDX-License-Identifier: GPL-2.0-or-later
"""A scene: the sources of a job on one reference grid, read window by window with the validity of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import rasterio

from ..checkpoint.card import Modality
from ..errors import LacunaError, UsageError
from ..events import Reporter, silent
from ..jobs import SourceSpec
from .grid import Grid, GridOptions, choose_grid, crs_name, crs_unit, extent_text
from .mapping import PixelMap
from .offsets import check_offset
from .resample import resample
from .source import Source
from .units import check_units

# Left alone, GDAL's cache of blocks grows to 5 % of the machine's memory.
BLOCK_CACHE_BYTES = 32 * 2**20
# Ground resolutions come from rounded pixel sizes; nearer than this to the trained range is within it.
_RESOLUTION_TOLERANCE = 0.05


def gdal_limits() -> rasterio.Env:
    """Return the GDAL settings that a job runs under, to be entered once: `with gdal_limits():`.

    GDAL's cache of blocks, one for all threads, is held to 32 MB, so that memory does not grow with the scene.
    """
    return rasterio.Env(GDAL_CACHEMAX=BLOCK_CACHE_BYTES)


class Layer(NamedTuple):
    """One modality in a window: `values` float32 (C, h, w) in the units of the file, 0 where not `valid` (h, w)."""

    values: np.ndarray
    valid: np.ndarray


class Scene:
    """The sources of a job on one grid.

    Pixels do not depend on how windows are cut, nor on the thread that reads them: any number of threads may read at
    once. Open inputs are never written to. Use as a context manager, or call `close`.

    Args:
        modalities: those of the checkpoint, in its order.
        sources: the raster bound to each modality that is available, by name.
        reference: the modality whose grid is taken when it is bound; default the finest source's.
        options: extent, CRS, resolution and reference that the job asks for.
        grid: the grid itself, instead of a choice by `reference` and `options`.
        trained_resolution: the range of ground resolution in metres beyond which to warn.
        reporter: told what was matched, reprojected, and of what looks wrong.

    Attributes:
        grid: the reference grid.
        names: the bound modalities, in the checkpoint's order.
        followed: the modality whose grid it is, or "" for a grid that was given.

    Raises:
        UsageError: `unknown-modality`, `no-modality`, `bad-crs`, `bad-bands`.
        LacunaError: a source cannot be used (`file-missing`, `file-unreadable`, `empty-raster`, `no-crs`,
        `too-few-bands`,
            `unknown-band`), is invalid everywhere (`no-valid-pixels`) or lies elsewhere (`no-overlap`).
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        sources: Mapping[str, SourceSpec],
        *,
        reference: str = "",
        options: GridOptions | None = None,
        grid: Grid | None = None,
        trained_resolution: Sequence[float] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        reporter = reporter or silent()
        _check_names(modalities, sources)
        self.names = tuple(modality.name for modality in modalities if modality.name in sources)
        self._sources: dict[str, Source] = {}
        try:
            for modality in modalities:
                if modality.name in sources:
                    self._sources[modality.name] = Source(modality, sources[modality.name], reporter)
            grids = {name: source.grid for name, source in self._sources.items()}
            chosen = (grid, "") if grid is not None else choose_grid(grids, reference, options or GridOptions())
            self.grid, self.followed = chosen
            self._check_overlap(reporter)
            for source in self._sources.values():
                _check_values(source, self.grid, reporter)
            self._maps = {name: PixelMap(self.grid, source.grid) for name, source in self._sources.items()}
            self._say_grids(trained_resolution, reporter)
        except BaseException:
            self.close()
            raise

    def read(self, row: int, col: int, height: int, width: int) -> dict[str, Layer]:
        """Return the layer of each bound modality in a window, which may stick out of the grid: it is invalid there."""
        return {name: self._read(name, row, col, height, width) for name in self.names}

    def source(self, name: str) -> Source:
        """Return the source bound to a modality; KeyError if there is none."""
        return self._sources[name]

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return, as JSON values for a run record, what each source is and how it was read."""
        return {name: self._describe(name) for name in self.names}

    def close(self) -> None:
        """Close the files, also the handles of other threads, which must be done with them."""
        for source in self._sources.values():
            source.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, name: str, row: int, col: int, height: int, width: int) -> Layer:
        """Return the layer of one modality in a window."""
        source = self._sources[name]
        top, bottom = max(row, 0), min(row + height, self.grid.height)
        left, right = max(col, 0), min(col + width, self.grid.width)
        method = source.modality.resampling
        if (top, left, bottom, right) == (row, col, row + height, col + width):
            return Layer(*resample(source, self._maps[name], method, row, col, height, width))
        layer = Layer(np.zeros((source.count, height, width), np.float32), np.zeros((height, width), bool))
        if top < bottom and left < right:
            inside = slice(top - row, bottom - row), slice(left - col, right - col)
            found = resample(source, self._maps[name], method, top, left, bottom - top, right - left)
            layer.values[(slice(None), *inside)], layer.valid[inside] = found
        return layer

    def _check_overlap(self, reporter: Reporter) -> None:
        """Raise `no-overlap` for a source that lies elsewhere; warn of one that only misses the part asked for."""
        absent = [name for name, source in self._sources.items() if not self.grid.meets(source.grid)]
        whole = self._sources[self.followed].grid if self.followed else self.grid
        for name in absent:
            source = self._sources[name]
            if len(absent) == len(self._sources) or not whole.meets(source.grid):
                other = self.grid if whole.meets(source.grid) else whole
                raise LacunaError(
                    "no-overlap",
                    f"{source} does not overlap the area of the output: it covers {extent_text(source.grid)}, the "
                    f"area is {extent_text(other)}.",
                    "Check that the raster is of the same place and its CRS is right, or leave it out.",
                )
            reporter.warn(f"{source} does not overlap the area asked for; {name} is taken as not available.")

    def _say_grids(self, trained: Sequence[float] | None, reporter: Reporter) -> None:
        """Say which sources are reprojected or resampled, and warn of a resolution that the model has not seen."""
        for name, source in self._sources.items():
            how = self._how(name)
            if how != "as it is":
                reporter.info(f"{source}: {how} ({source.modality.resampling}) to the grid of the output.")
        ground = self.grid.ground_resolution
        if trained is None or not np.isfinite(ground):
            return
        low, high = min(trained), max(trained)
        if not low * (1 - _RESOLUTION_TOLERANCE) <= ground <= high * (1 + _RESOLUTION_TOLERANCE):
            reporter.warn(
                f"Pixels of the output are {ground:.3g} m on the ground; the checkpoint was trained on {low:.3g} to "
                f"{high:.3g} m. Objects look different at another size: choose another resolution if you can."
            )

    def _how(self, name: str) -> str:
        """Return in words how a source comes onto the grid."""
        positions, source = self._maps[name], self._sources[name]
        if positions.reprojects:
            return f"reprojected from {crs_name(source.grid.crs)} to {crs_name(self.grid.crs)}"
        return "as it is" if positions.offset is not None else "resampled"

    def _describe(self, name: str) -> dict[str, Any]:
        """Return, as JSON values, what one source is and how it is read."""
        source = self._sources[name]
        how = self._how(name)
        return {
            "path": source.path,
            "mask": source.mask_path,
            "bands": list(source.bands),
            "nodata": [None if value is None or not np.isfinite(value) else value for value in source.nodata],
            "crs": crs_name(source.grid.crs),
            "size": [source.grid.width, source.grid.height],
            "pixel": [*source.grid.resolution, crs_unit(source.grid.crs)],
            "values": self._describe_values(source),
            "read": how if how == "as it is" else f"{how}, {source.modality.resampling}",
        }

    def _describe_values(self, source: Source) -> dict[str, list[float]]:
        """Return percentiles of a sample of the part that the grid covers, with a number for each band."""
        found = source.quantiles(self.grid)
        return {f"p{percent:02}": [float(f"{values[percent]:.7g}") for values in found] for percent in (1, 50, 99)}


def _check_names(modalities: Sequence[Modality], sources: Mapping[str, SourceSpec]) -> None:
    """Raise UsageError for a modality that the checkpoint does not know, or if none is bound."""
    known = [modality.name for modality in modalities]
    unknown = [name for name in sources if name not in known]
    if unknown:
        text = f"The checkpoint knows no modality {', '.join(unknown)}; it knows {', '.join(known)}."
        raise UsageError("unknown-modality", text, "Bind the raster to one of these.")
    if not sources:
        hint = f"Bind a raster to at least one of {', '.join(known)}."
        raise UsageError("no-modality", "No modality was given.", hint)


def _check_values(source: Source, grid: Grid, reporter: Reporter) -> None:
    """Raise `no-valid-pixels` for a source without any, and warn of values that contradict its modality."""
    if not source.has_valid_pixels():
        raise LacunaError(
            "no-valid-pixels",
            f"{source} has no valid pixel: all are nodata, not a number or masked.",
            f"Leave {source.modality.name} out, or check the file, its nodata value and its mask.",
        )
    check_units(source, reporter, grid)
    check_offset(source, reporter)

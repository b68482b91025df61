# SPDX-License-Identifier: GPL-2.0-or-later
"""Write rasters as they become known, in memory that does not grow with the scene, and publish them whole.

The scene is cut into *strips* of rows, in the order in which they are finished. A finished strip is a small GeoTIFF in
the folder `OUTPUT.part`; when all are there, they are copied into one Cloud-Optimized GeoTIFF, which is then renamed to
OUTPUT together with its sidecars. So a final file is whole or not there, and what a crash leaves can be taken up again
strip by strip.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import threading
import xml.etree.ElementTree as xml
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError
from rasterio.windows import Window

from ..errors import LacunaError, disk_error
from .encodings import Layout, rgb
from .grid import Grid
from .sidecars import sidecar_paths, sidecars

_BLOCK = 512
_PROBE = 8 * 2**20
_OPEN_STRIPS = 8
# Threads that compress the final raster; each holds buffers of its own.
_COMPRESSORS = 2
# GDAL's names for numpy's types, in the description of a virtual raster.
_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}


class RasterWriter:
    """Writes one raster, strip by strip.

    Args:
        path: where the finished raster goes.
        layout: how it is encoded.
        grid: its grid.
        strips: the rows at which strips begin, and the last row: n strips have n + 1 edges.
    """

    def __init__(self, path: str, layout: Layout, grid: Grid, strips: Sequence[int]) -> None:
        self.path = path
        self.layout = layout
        self.part = part_folder(path)
        self._grid = grid
        self._edges = list(strips)
        self._open: dict[int, Any] = {}
        self._written: dict[int, list[tuple[Window, int]]] = {}

    def finished(self, strip: int) -> bool:
        """Return whether strip number `strip` is on disk, whole."""
        return self._strip_path(strip).exists()

    def write(self, strip: int, row: int, column: int, values: np.ndarray) -> None:
        """Write `values` (bands, h, w) at `row` and `column` of the scene, which lie in strip number `strip`."""
        window = Window(column, row - self._edges[strip], values.shape[2], values.shape[1])
        with self._failing():
            self._dataset(strip).write(values, window=window)
        self._written.setdefault(strip, []).append((window, zlib.crc32(values.data)))

    def finish(self, strip: int) -> None:
        """Close strip number `strip`; what was not written to is nodata."""
        with self._failing():
            self._dataset(strip).close()
            del self._open[strip]
            self._verify_strip(strip)
            os.replace(self._unfinished_path(strip), self._strip_path(strip))

    def assemble(self) -> None:
        """Make the Cloud-Optimized GeoTIFF of all strips, and its sidecars, still in the folder of parts."""
        mosaic = self.part / "mosaic.vrt"
        options = {"predictor": "YES"} if self.layout.dtype == "float32" else {}
        with self._failing():
            mosaic.write_text(self._mosaic(), encoding="utf-8")
            # GDAL would keep what it cannot put into the GeoTIFF beside it; the sidecars are written here instead. And
            # it would keep up to 450 strips open, with buffers for each: memory would grow with the scene.
            with rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_MAX_DATASET_POOL_SIZE=_OPEN_STRIPS):
                rasterio.shutil.copy(
                    str(mosaic),
                    str(self.part / "final.tif"),
                    driver="COG",
                    compress="DEFLATE",
                    blocksize=_BLOCK,
                    overview_resampling=self.layout.overviews,
                    bigtiff="IF_SAFER",
                    num_threads=_COMPRESSORS,
                    **options,
                )
            self._verify_copy()
            for name, text in zip(("final.aux.xml", "final.qml"), sidecars(self.layout), strict=True):
                if text is not None:
                    (self.part / name).write_text(text, encoding="utf-8")

    def publish(self) -> None:
        """Rename what `assemble` made to its final name and remove the parts."""
        renames = zip(("final.aux.xml", "final.qml"), sidecar_paths(self.path), strict=True)
        for name, target in [*renames, ("final.tif", self.path)]:
            if (self.part / name).exists():
                replace(str(self.part / name), target)
            elif os.path.exists(target):
                os.remove(target)
        shutil.rmtree(self.part)

    def close(self) -> None:
        """Close what is open, unfinished as it is."""
        for dataset in self._open.values():
            with contextlib.suppress(RasterioError, OSError):
                dataset.close()
        self._open.clear()

    def _strip_path(self, strip: int) -> Path:
        return self.part / f"strip-{strip:06d}.tif"

    def _unfinished_path(self, strip: int) -> Path:
        return self.part / f"strip-{strip:06d}.tif.unfinished"

    def _dataset(self, strip: int) -> Any:
        """Return the open dataset of a strip, made if need be."""
        if strip not in self._open:
            first, last = self._edges[strip], self._edges[strip + 1]
            self._open[strip] = rasterio.open(
                self._unfinished_path(strip),
                "w",
                driver="GTiff",
                dtype=self.layout.dtype,
                count=len(self.layout.bands),
                height=last - first,
                width=self._grid.width,
                nodata=self.layout.nodata,
                crs=self._grid.crs,
                transform=self._grid.window(first, 0, last - first, self._grid.width).transform,
                tiled=True,
                blockxsize=_BLOCK,
                blockysize=_BLOCK,
                interleave="band",
                compress="DEFLATE",
                zlevel=1,
                sparse_ok=True,
                bigtiff="IF_SAFER",
            )
        return self._open[strip]

    def _verify_strip(self, strip: int) -> None:
        """Read a strip back and compare: on a full disk GDAL can drop blocks that it had in its cache and go on."""
        with rasterio.open(self._unfinished_path(strip)) as dataset:
            for window, checksum in self._written.pop(strip, []):
                if zlib.crc32(dataset.read(window=window)) != checksum:
                    raise OSError("what is on the disk is not what was written")

    def _verify_copy(self) -> None:
        """Compare the finished raster with its strips; overviews lie before it in the file, so they are whole too."""
        with rasterio.open(self.part / "mosaic.vrt") as strips, rasterio.open(self.part / "final.tif") as copy:
            for _, window in copy.block_windows(1):
                if not np.array_equal(copy.read(window=window), strips.read(window=window), equal_nan=True):
                    raise OSError("what is on the disk is not what was written")

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn an error of GDAL or of the system, also one that GDAL only logs, into one that names the file."""
        said = _Listener()
        logger = logging.getLogger("rasterio")
        logger.addHandler(said)
        try:
            yield
            if said.errors:
                raise OSError("; ".join(said.errors))
        except (RasterioError, OSError) as problem:
            raise _write_error(self.path, problem) from problem
        finally:
            logger.removeHandler(said)

    def _mosaic(self) -> str:
        """Return the description of a virtual raster that puts the strips one below the other."""
        grid, dtype = self._grid, _GDAL_TYPES[self.layout.dtype]
        root = xml.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
        xml.SubElement(root, "SRS").text = grid.crs.to_wkt()
        xml.SubElement(root, "GeoTransform").text = ", ".join(repr(float(value)) for value in grid.transform.to_gdal())
        for index, name in enumerate(self.layout.bands, start=1):
            band = xml.SubElement(root, "VRTRasterBand", dataType=dtype, band=str(index))
            xml.SubElement(band, "Description").text = name
            xml.SubElement(band, "NoDataValue").text = str(self.layout.nodata)
            if self.layout.scale is not None:
                xml.SubElement(band, "Scale").text = repr(self.layout.scale)
            if self.layout.palette:
                band.extend(self._palette())
            band.extend(self._source(strip, index) for strip in range(len(self._edges) - 1))
        return xml.tostring(root, encoding="unicode")

    def _palette(self) -> list[xml.Element]:
        """Return the colour table, transparent where a value is no category."""
        interpretation = xml.Element("ColorInterp")
        interpretation.text = "Palette"
        table = xml.Element("ColorTable")
        for value in range(max(self.layout.palette) + 1):
            entry = self.layout.palette.get(value)
            numbers = (*rgb(entry.color), 255) if entry else (0, 0, 0, 0)
            xml.SubElement(table, "Entry", {f"c{i}": str(number) for i, number in enumerate(numbers, start=1)})
        return [interpretation, table]

    def _source(self, strip: int, band: int) -> xml.Element:
        """Return the part of a virtual band that is strip number `strip`."""
        first, last = self._edges[strip], self._edges[strip + 1]
        size = {"xSize": str(self._grid.width), "ySize": str(last - first)}
        source = xml.Element("SimpleSource")
        xml.SubElement(source, "SourceFilename", relativeToVRT="1").text = self._strip_path(strip).name
        xml.SubElement(source, "SourceBand").text = str(band)
        xml.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
        xml.SubElement(source, "DstRect", {"xOff": "0", "yOff": str(first), **size})
        return source


def part_folder(path: str) -> Path:
    """Return the folder that holds the unfinished parts of the output at `path`."""
    return Path(path + ".part")


def write_json(path: str, values: Any) -> None:
    """Write `values` as JSON to `path`, whole or not at all."""
    replace(stage_json(path, values), path)


def stage_json(path: str, values: Any) -> str:
    """Write `values` as JSON beside `path` and return the name of that file, for `replace` to rename later."""
    unfinished = path + ".part"
    try:
        with open(unfinished, "w", encoding="utf-8") as stream:
            json.dump(values, stream, indent=1)
            stream.write("\n")
    except OSError as problem:
        raise _write_error(path, problem) from problem
    return unfinished


def replace(source: str, target: str) -> None:
    """Rename `source` to `target`, which may exist.

    Raises:
        LacunaError: `output-locked`, when another program holds the target open, as Windows forbids then.
    """
    try:
        os.replace(source, target)
    except PermissionError:
        raise locked(target) from None


def locked(path: str) -> LacunaError:
    """Return the error for an output that another program holds."""
    return LacunaError(
        "output-locked",
        f"The output {path} exists and another program holds it open, so it cannot be replaced.",
        "Close it there (in QGIS: remove its layer), or choose another name.",
    )


class _Listener(logging.Handler):
    """Keeps the errors that GDAL logs in this thread."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message of `record`."""
        if record.thread == self._thread:
            self.errors.append(record.getMessage())


def _write_error(path: str, problem: Exception) -> LacunaError:
    """Return the error for an output that could not be written: the words of the system, where it has some."""
    if isinstance(problem, OSError) and problem.errno:
        return disk_error(problem, path)
    try:
        # GDAL does not say why a write failed. Writing once more as Python does shows it, if the disk is the reason.
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(path))) as probe:
            probe.write(bytes(_PROBE))
    except OSError as reason:
        return disk_error(reason, path)
    return LacunaError(
        "write-failed", f"{path} could not be written: {problem}.", "Check the folder, its disk and your rights there."
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""The demonstration: classify the bundled sample scene inside QGIS, without a screen, each time with other modalities.

Writes four maps and one picture to demo-output/, and prints how well each map agrees with the reference labels on the
part of the scene that the checkpoint was not trained on. Run by `make demo`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from demo_picture import Panel, draw, elevation_image, map_image, radar_image, true_colour_image

from lacuna.engine.checkpoint.card import Card
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.data.confusion import ConfusionMatrix

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "resources" / "checkpoints" / "landcover-s2-s1-dem.safetensors"
SAMPLE = ROOT / "resources" / "sample"
OUTPUT = ROOT / "demo-output"
FILES = {"optical": "s2.tif", "radar": "s1.tif", "elevation": "dem.tif"}
# The checkpoint was trained on columns 0 to 133 of this scene; 16 columns lie between as a gap.
FIRST_HELD_OUT = 150


@dataclass(frozen=True)
class Case:
    """One run: the name of its map, its title, and the modalities that are there."""

    name: str
    title: str
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class Accuracy:
    """Agreement of a map with the labels of the held-out part, as fractions."""

    miou: float
    overall: float

    def __str__(self) -> str:
        return f"mIoU {self.miou:.2f}   overall accuracy {self.overall:.2f}"


CASES = (
    Case("all", "all three", ("optical", "radar", "elevation")),
    Case("without-optical", "without optical", ("radar", "elevation")),
    Case("without-radar", "without radar", ("optical", "elevation")),
    Case("elevation-alone", "elevation alone", ("elevation",)),
)


class DemoError(Exception):
    """The demonstration cannot go on; the text says why."""


class Qgis:
    """`qgis_process` with a profile of its own, in which only this checkout is a plugin.

    Args:
        folder: where the profile and the link to the checkout are made.
    """

    def __init__(self, folder: Path) -> None:
        # Debian 12's /usr/bin/qgis_process is a script that fails ("Command --noversioncheck not known!").
        program = shutil.which("/usr/bin/qgis_process.bin") or shutil.which("qgis_process")
        if program is None:
            raise DemoError("qgis_process was not found. Install QGIS 3.22 or later: make demo does so on Debian.")
        plugins = folder / "plugins"
        plugins.mkdir()
        (plugins / "lacuna").symlink_to(ROOT, target_is_directory=True)
        # QGIS takes its Python from the first python3 on PATH, which may be some environment's.
        left_out = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        self._program = program
        self._environment = {
            **kept,
            "PATH": f"/usr/bin:/bin:{os.environ.get('PATH', '')}",
            "QT_QPA_PLATFORM": "offscreen",
            # QGIS would write statistics beside the sample's rasters.
            "GDAL_PAM_ENABLED": "NO",
            "QGIS_PLUGINPATH": str(plugins),
            "QGIS_CUSTOM_CONFIG_PATH": str(folder / "profile"),
        }
        self.call("plugins", "enable", "lacuna")

    def call(self, *arguments: str) -> None:
        """Run `qgis_process` with `arguments`; DemoError with what it printed if it fails."""
        command = [self._program, *arguments]
        done = subprocess.run(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise DemoError(f"{' '.join(command)}\nended with status {done.returncode}. It printed:\n{done.stdout}")

    def segment(self, card: Card, modalities: tuple[str, ...], target: Path) -> None:
        """Run `lacuna:segment` on the sample scene with just `modalities`, writing the class map to `target`."""
        rasters = [
            f"MODALITY_{number}={SAMPLE / FILES[name]}"
            for number, name in enumerate(card.names, start=1)
            if name in modalities
        ]
        self.call("run", "lacuna:segment", "--", f"CHECKPOINT={CHECKPOINT}", *rasters, f"OUTPUT={target}")
        if not target.is_file():
            raise DemoError(f"qgis_process ended well, but {target} is not there.")


def read(path: Path) -> np.ndarray:
    """Return the raster at `path` as an array of (bands, height, width)."""
    with rasterio.open(path) as source:
        return source.read()


def measure(card: Card, target: Path) -> Accuracy:
    """Return how the map at `target` agrees with the labels of classes on the held-out columns."""
    labels, predicted = (read(path)[0, :, FIRST_HELD_OUT:] for path in (SAMPLE / "labels.tif", target))
    matrix = ConfusionMatrix(len(card.classes))
    matrix.update(to_index(card, labels), to_index(card, predicted))
    return Accuracy(matrix.miou(), matrix.oa())


def to_index(card: Card, values: np.ndarray) -> np.ndarray:
    """Return class values as positions in the card's list of classes, -1 for all others."""
    table = np.full(256, -1, dtype=np.int64)
    for index, item in enumerate(card.classes):
        table[item.value] = index
    return table[values]


def run(qgis: Qgis, card: Card) -> dict[str, Accuracy]:
    """Make the map of each case, saying so line by line; return the accuracy by the case's name."""
    found = {}
    for number, case in enumerate(CASES, start=1):
        print(f"  {number} of {len(CASES)}: {case.title} ...", end="", flush=True)
        started = time.monotonic()
        target = OUTPUT / f"{case.name}.tif"
        qgis.segment(card, case.modalities, target)
        found[case.name] = measure(card, target)
        print(f" {time.monotonic() - started:.0f} s")
    return found


def picture(card: Card, found: dict[str, Accuracy]) -> Path:
    """Draw inputs and maps side by side into demo-output/demo.png and return its path."""
    colours = {item.value: item.color for item in card.classes}
    inputs = [
        Panel("optical", "Sentinel-2, true colour", true_colour_image(read(SAMPLE / "s2.tif"))),
        Panel("radar", "Sentinel-1, VV", radar_image(read(SAMPLE / "s1.tif"))),
        Panel("elevation", "Copernicus DEM, shaded", elevation_image(read(SAMPLE / "dem.tif")[0])),
        Panel("reference labels", "Esri land cover", map_image(read(SAMPLE / "labels.tif")[0], colours)),
    ]
    maps = [
        Panel(case.title, str(found[case.name]), map_image(read(OUTPUT / f"{case.name}.tif")[0], colours))
        for case in CASES
    ]
    target = OUTPUT / "demo.png"
    draw([inputs, maps], [(item.name, item.color) for item in card.classes], FIRST_HELD_OUT, target)
    return target


def main() -> int:
    """Run the demonstration; return 0, or 1 after saying what went wrong."""
    print("Lacuna's demonstration: land cover from optical, radar and elevation rasters, inside QGIS, without a screen")
    try:
        card = read_card(str(CHECKPOINT))
        shutil.rmtree(OUTPUT, ignore_errors=True)
        OUTPUT.mkdir()
        with tempfile.TemporaryDirectory(prefix="lacuna-demo-") as folder:
            found = run(Qgis(Path(folder)), card)
        drawn = picture(card, found)
    except Exception as problem:
        print(f"\nThe demonstration failed: {problem}", file=sys.stderr)
        return 1
    print(f"\nAgreement with the reference labels on the held-out part (columns {FIRST_HELD_OUT} to 223):")
    for case in CASES:
        print(f"  {case.title:<16} {found[case.name]}   {OUTPUT / case.name}.tif")
    print(f"\nPicture: {drawn}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: GPL-2.0-or-later
"""Peak memory of `lacuna segment` on a small and on a large scene: it must not grow with the scene.

    .venv/bin/python tests/benchmarks/memory.py [--small 2048] [--large 16384] [--folder FOLDER]

Two sources (3 bands of uint8; 1 band of float32 that covers half the scene), a small model with random weights, all
four outputs. Prints pixels a second and the peak resident memory of each run, and their ratio; exits with 1 if that is
above 1.2.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.windows import Window

from lacuna.engine.checkpoint.card_file import card_from_dict
from lacuna.engine.checkpoint.store import save
from lacuna.engine.models.registry import build

LIMIT = 1.2
# What the model computes does not matter here, so it is made small enough for a large scene on two cores.
SMALLEST = '{"encoder_options": {"width": 4, "depth": 1, "stem_stride": 4}, "heads": [1, 1, 1, 1], "head_width": 8}'
CARD = {
    "architecture": {"name": "sgma", "config": {}},
    "modalities": [
        {"name": "optical", "bands": ["red", "green", "blue"], "scaling": {"type": "z_score", "mean": 128, "std": 60}},
        {"name": "height", "bands": ["height"], "scaling": {"type": "z_score", "mean": 10, "std": 5}},
    ],
    "classes": [{"value": value, "name": f"class {value}"} for value in range(1, 7)],
    "tile": [512, 512],
    "margin": 32,
}


def main() -> int:
    """Run both scenes and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=2048)
    parser.add_argument("--large", type=int, default=16384)
    parser.add_argument("--folder", type=Path, help="where the scenes go (about 2 GB free); default: a temporary one")
    parser.add_argument("--config", default=SMALLEST, help="configuration of the model, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        checkpoint = make_checkpoint(Path(folder), options.config)
        peaks = [measure(Path(folder), checkpoint, size) for size in (options.small, options.large)]
    ratio = peaks[1] / peaks[0]
    print(f"ratio {ratio:.3f} (limit {LIMIT})")
    return int(ratio > LIMIT)


def make_checkpoint(folder: Path, config: str) -> Path:
    """Write a checkpoint with random weights."""
    torch.manual_seed(0)
    card = card_from_dict({**CARD, "architecture": {"name": "sgma", "config": json.loads(config)}})
    channels = {item.name: len(item.bands) for item in card.modalities}
    model = build("sgma", card.architecture["config"], channels, len(card.classes))
    card.architecture["config"] = model.config()
    card.stride = model.output_stride
    path = folder / "random.safetensors"
    save(str(path), model, card)
    return path


def measure(folder: Path, checkpoint: Path, size: int) -> float:
    """Segment a scene of `size` x `size` pixels; return the peak resident memory of the engine in MiB."""
    optical, height = folder / f"optical-{size}.tif", folder / f"height-{size}.tif"
    make_raster(optical, size, size, 3, "uint8")
    make_raster(height, size, size // 2, 1, "float32")
    outputs = {name: folder / f"{name}-{size}.tif" for name in ("classes", "confidence", "probabilities", "evidence")}
    command = [sys.executable, "-m", "lacuna.engine", "segment", "--checkpoint", str(checkpoint)]
    command += ["--modality", f"optical={optical}", "--modality", f"height={height}", "--device", "cpu"]
    command += ["--output", str(outputs.pop("classes"))]
    for name, path in outputs.items():
        command += [f"--{name}", str(path)]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status:
        raise SystemExit(f"the run on {size} x {size} pixels failed with status {status}")
    peak = usage.ru_maxrss / 1024
    print(f"{size} x {size}: {seconds:.0f} s, {size * size / seconds / 1e6:.2f} Mpx/s, peak {peak:.0f} MiB", flush=True)
    for path in folder.glob(f"*-{size}.*"):
        path.unlink()
    return peak


def make_raster(path: Path, width: int, height: int, bands: int, dtype: str) -> None:
    """Write a raster of smooth noise, block by block."""
    generator = np.random.default_rng(0)
    texture = generator.integers(0, 255, (bands, 64, 64)).repeat(16, 1).repeat(16, 2).astype(dtype)
    profile = {"driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": dtype, "tiled": True}
    profile |= {"blockxsize": 512, "blockysize": 512, "compress": "DEFLATE", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", transform=Affine(10, 0, 500000, 0, -10, 5500000), **profile) as dataset:
        for row in range(0, height, 1024):
            for column in range(0, width, 1024):
                rows, columns = min(1024, height - row), min(1024, width - column)
                dataset.write(texture[:, :rows, :columns], window=Window(column, row, columns, rows))


if __name__ == "__main__":
    sys.exit(main())

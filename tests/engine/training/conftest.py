# SPDX-License-Identifier: GPL-2.0-or-later
"""What the training tests share: a small world of scenes, its manifest, and jobs run on it."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import numpy as np
import pytest
from affine import Affine

from lacuna.engine.events import Reporter
from lacuna.engine.jobs import TrainJob
from lacuna.engine.training.manifest import read_manifest
from lacuna.engine.training.train import train

DATA = Path(__file__).parents[2] / "data"

# How long an example takes says nothing on a machine that others use too.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

MANIFEST = """
reference = "optical"
ignore = [0]
classes = [{value = 1, name = "low", color = "#1b7837"}, {value = 2, name = "middle"}, {value = 5, name = "high"}]
[modalities.optical]
bands = ["red", "nir"]
[modalities.height]
bands = ["height"]
[split]
method = "block"
block = 16
gap = 2
validation = 0.25
"""

CONFIG = """
[model]
encoder_options = {width = 4, depth = 1}
head_width = 8
[training]
epochs = 2
batch = 2
crop = 24
crops = 4
tile = 64
"""


class World:
    """Scenes whose class follows from the values of every modality, written into a folder.

    Args:
        folder: where.
        write: the fixture `write_raster`.
    """

    def __init__(self, folder, write):
        self.folder, self._write = Path(folder), write
        self.scenes = []
        self.head = MANIFEST

    def scene(self, name, size=(48, 48), seed=0, modalities=("optical", "height"), change=None, labels=None, **entry):
        """Add a scene; `change` may alter its arrays by name, `entry` are further keys of the manifest."""
        rng = np.random.default_rng(seed)
        kinds = np.kron(rng.integers(0, 3, (size[0] // 8, size[1] // 8)), np.ones((8, 8), int))
        arrays = {
            "optical": (np.stack([kinds, 2 - kinds]) * 100 + rng.normal(200, 10, (2, *size))).astype(np.float32),
            "height": (kinds * 5 + rng.normal(0, 1, size)).astype(np.float32),
            "labels": np.array([1, 2, 5])[kinds].astype(np.uint8),
        }
        if change:
            change(arrays)
        place = Affine(10, 0, 500000 + 10000 * len(self.scenes), 0, -10, 5500000)
        for kind in (*modalities, "labels"):
            self._write(f"{name}_{kind}.tif", arrays[kind], transform=place)
        sources = ", ".join(f'{kind} = "{name}_{kind}.tif"' for kind in modalities)
        lines = [f'name = "{name}"', f"sources = {{{sources}}}", f'labels = "{labels or name + "_labels.tif"}"']
        lines += [f"{key} = {toml(value)}" for key, value in entry.items()]
        self.scenes.append("[[scenes]]\n" + "\n".join(lines))
        return arrays

    def text(self):
        return self.head + "\n".join(self.scenes)

    def manifest(self):
        """Write the manifest and return its path."""
        path = self.folder / "scenes.toml"
        path.write_text(self.text())
        return str(path)

    def read(self):
        return read_manifest(self.manifest())


def toml(value):
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.fixture
def world(tmp_path, write_raster):
    """An empty `World`."""
    return World(tmp_path, write_raster)


@pytest.fixture
def two_scenes(world):
    """A `World` of two scenes."""
    world.scene("a", seed=1)
    world.scene("b", seed=2)
    return world


@pytest.fixture
def heard():
    """A reporter, and the events that it was told."""
    said = []
    return Reporter(said.append), said


def texts(said, level="warning"):
    return [event["text"] for event in said if event["event"] == "message" and event["level"] == level]


@pytest.fixture
def make_job(tmp_path):
    """A function that returns a TrainJob of a manifest with the small CONFIG, changed by options."""

    def make(manifest, config=CONFIG, output="model.safetensors", **options):
        path = tmp_path / "config.toml"
        path.write_text(config)
        values = {"architecture": "sgma", "config": str(path), "device": "cpu", **options}
        return TrainJob(manifest, output=str(tmp_path / output), **values)

    return make


@pytest.fixture
def run_train(make_job, heard):
    """A function that trains on a manifest with the small CONFIG and returns the result."""

    def run(manifest, **options):
        return train(make_job(manifest, **options), heard[0])

    return run

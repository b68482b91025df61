# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine's tests share: rasters made on the spot, tiny models, jobs run as in use, published numbers."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import settings
from torch import nn

from lacuna.engine.checkpoint.card_file import card_from_dict
from lacuna.engine.checkpoint.store import save
from lacuna.engine.data.manifest import read_manifest
from lacuna.engine.events import Reporter
from lacuna.engine.inference.pipeline import segment
from lacuna.engine.jobs import SegmentJob, SourceSpec, TrainJob
from lacuna.engine.models import registry
from lacuna.engine.models.base import SegmentationModel, TrainingSettings
from lacuna.engine.training import detail_path
from lacuna.engine.training.train import train

# How long an example takes says something about the machine, not about the code.
settings.register_profile("lacuna", deadline=None)
settings.load_profile("lacuna")

# Engines that tests start do not spin where a thread waits for another, which slows down whatever else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def brief_detail(monkeypatch):
    """A detail path is trained in few steps: most trainings here are about something else; its own tests take all."""
    monkeypatch.setattr(detail_path, "STEPS", (60, 60))
    monkeypatch.setattr(detail_path, "TAUGHT_STEPS", (60, 60))


TRANSFORM = Affine(10, 0, 500000, 0, -10, 5500000)
DATA = Path(__file__).parents[1] / "data"
COLORS = ("#0064c8", "#1b7837", "#e08214", "#c51b7d", "#7f7f7f", "#ffff99")


@pytest.fixture(autouse=True)
def one_thread():
    """The two cores are better used by whoever else runs; sums then have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_raster(tmp_path):
    """A function that writes an array (bands, h, w) or (h, w) as a GeoTIFF and returns its path."""

    def write(name, values, transform=TRANSFORM, crs="EPSG:32632", nodata=None, names=None, mask=None, **profile):
        values = np.atleast_3d(values) if np.ndim(values) == 3 else np.asarray(values)[None]
        path = Path(tmp_path) / name
        count, height, width = values.shape
        profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "nodata": nodata, **profile}
        with rasterio.open(path, "w", dtype=values.dtype, crs=crs, transform=transform, **profile) as out:
            out.write(values)
            if mask is not None:
                out.write_mask(mask)
            for index, band in enumerate(names or (), start=1):
                out.set_band_description(index, band)
        return str(path)

    return write


@dataclass
class _NoConfig:
    pass


class Identity(SegmentationModel):
    """Logits copy the input: the first band of the first modality present is the index of the class."""

    Config = _NoConfig

    def __init__(self, modalities, classes, config):
        super().__init__(modalities, classes, config)
        self.output_stride, self.margin = 8, 4
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images, size=None):
        index = images[self.present(images)[0]][:, 0].round().long().clamp(0, self.classes - 1)
        return 30 * nn.functional.one_hot(index, self.classes).permute(0, 3, 1, 2).float()

    def latent(self, images, size=None):
        return images[self.present(images)[0]]

    def losses(self, images, target, *, generator=None, class_weights=None):
        return {"total": self.unused.sum()}

    @classmethod
    def settings(cls, preset="default"):
        return TrainingSettings(lr=1e-3, weight_decay=0, epochs=1, warmup_epochs=0, batch=1, crop=16)

    @classmethod
    def preset_config(cls, preset="default"):
        return {}


@pytest.fixture(autouse=True)
def identity_architecture(monkeypatch):
    """The list of architectures is closed; tests open it for one of their own."""
    monkeypatch.setitem(registry._MODULES, "identity", "base")
    monkeypatch.setitem(registry._CLASSES, "identity", Identity)


@pytest.fixture
def make_checkpoint(tmp_path):
    """A function that saves a checkpoint with fixed random weights and returns its path."""

    def make(name="model.safetensors", architecture="identity", modalities=None, classes=6, config=None, **card):
        values = {
            "architecture": {"name": architecture, "config": config or {}},
            "modalities": [
                {"name": key, "bands": bands, **({} if isinstance(bands, list) else bands)}
                for key, bands in (modalities or {"index": ["index"]}).items()
            ],
            "classes": [
                {"value": value, "name": f"class {value}", "color": COLORS[value % len(COLORS)]}
                for value in (range(classes) if isinstance(classes, int) else classes)
            ],
            "tile": [64, 64],
            **card,
        }
        card = card_from_dict(values)
        channels = {item.name: len(item.bands) for item in card.modalities}
        torch.manual_seed(0)
        model = registry.build(architecture, card.architecture["config"], channels, len(card.classes))
        card.architecture["config"] = model.config()
        card.stride, card.margin = model.output_stride, min(model.margin, 16)
        path = Path(tmp_path) / name
        save(str(path), model, card)
        return str(path)

    return make


@dataclass
class Run:
    """What a job gave: its result and what it said."""

    result: dict
    events: list
    warnings: list

    @property
    def record(self):
        return json.loads(Path(self.result["record"]).read_text())

    def texts(self, level):
        return [event["text"] for event in self.events if event["event"] == "message" and event["level"] == level]


@dataclass
class Listener:
    """A reporter that remembers, and that can cancel after a number of tiles."""

    cancel_at: int | None = None
    events: list = field(default_factory=list)

    def reporter(self):
        made = Reporter(lambda event: self._take(event, made))
        return made

    def _take(self, event, reporter):
        self.events.append(event)
        if self.cancel_at is not None and event["event"] == "progress" and event["done"] >= self.cancel_at:
            reporter.cancelled.set()


@pytest.fixture
def run_segment(tmp_path):
    """A function that runs a SegmentJob; sources are paths or SourceSpecs."""

    def run(checkpoint, sources, output="classes.tif", cancel_at=None, **options):
        named = {
            key: source if isinstance(source, SourceSpec) else SourceSpec(source) for key, source in sources.items()
        }
        for key in ("confidence", "probabilities", "evidence"):
            if key in options:
                options[key] = str(tmp_path / options[key])
        job = SegmentJob(checkpoint, named, str(tmp_path / output), **{"device": "cpu", **options})
        job.check()
        listener = Listener(cancel_at)
        reporter = listener.reporter()
        return Run(segment(job, reporter), listener.events, reporter.warnings)

    return run


@pytest.fixture
def read():
    """A function that returns all bands of a raster."""

    def read_all(path):
        with rasterio.open(path) as dataset:
            return dataset.read()

    return read_all


def _load_fill():
    spec = importlib.util.spec_from_file_location("reference_fill", DATA / "reference" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_FILL = _load_fill()


@pytest.fixture
def fill():
    """A function (name, shape) that returns the tensor that the reference numbers were computed with."""
    return lambda name, shape: torch.from_numpy(_FILL.fill(name, tuple(shape)))


@pytest.fixture
def image():
    """A function (seed, shape) that returns the fixed input image of that number."""
    return lambda seed, shape: torch.from_numpy(_FILL.image(seed, shape))


@pytest.fixture
def reference():
    """A function that returns the arrays of a reference file, and its weights by published name."""

    def load(name):
        arrays = dict(np.load(DATA / "reference" / f"{name}.npz"))
        names = json.loads((DATA / "reference" / f"{name}_names.json").read_text())
        return arrays, {key: torch.from_numpy(_FILL.fill(key, tuple(shape))) for key, shape in names.items()}

    return load


@pytest.fixture
def fill_model():
    """A function that sets every tensor of a module to fixed values by its name, and puts it in evaluation mode."""

    def fill(module):
        state = module.state_dict()
        module.load_state_dict({key: torch.from_numpy(_FILL.fill(key, tuple(state[key].shape))) for key in state})
        return module.eval()

    return fill


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
        # The detail path is asked for by the tests that are about it alone.
        values = {"architecture": "sgma", "config": str(path), "device": "cpu", "detail": False, **options}
        return TrainJob(manifest, output=str(tmp_path / output), **values)

    return make


@pytest.fixture
def run_train(make_job, heard):
    """A function that trains on a manifest with the small CONFIG and returns the result."""

    def run(manifest, **options):
        return train(make_job(manifest, **options), heard[0])

    return run

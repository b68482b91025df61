# SPDX-License-Identifier: GPL-2.0-or-later
"""What the evaluation tests share: a scene whose maps are known beforehand, and jobs run on it."""

from __future__ import annotations

import numpy as np
import pytest

from lacuna.engine.evaluation.evaluate import evaluate
from lacuna.engine.events import Reporter
from lacuna.engine.jobs import EvaluateJob, SourceSpec

CLASSES = 4
SIZE = (56, 72)


@pytest.fixture
def arrays():
    """Labels (class values 0 to 3), and two modalities whose values are the classes that the identity gives them."""
    rng = np.random.default_rng(5)
    labels = np.kron(rng.integers(0, CLASSES, (7, 9)), np.ones((8, 8), int))

    def noisy(share):
        return np.where(rng.random(SIZE) < share, rng.integers(0, CLASSES, SIZE), labels).astype(np.float32)

    return {"labels": labels.astype(np.uint8), "a": noisy(0.2), "b": noisy(0.6)}


@pytest.fixture
def scene(arrays, write_raster):
    """The paths of `arrays` as rasters."""
    return {name: write_raster(f"{name}.tif", values) for name, values in arrays.items()}


@pytest.fixture
def checkpoint(make_checkpoint):
    """An identity over two modalities, `a` before `b`."""
    return make_checkpoint(modalities={"a": ["index"], "b": ["index"]}, classes=CLASSES, tile=[32, 32])


@pytest.fixture
def run_evaluate():
    """A function that runs an EvaluateJob, its sources given as paths, and returns the result and the events."""

    def run(checkpoint, sources=None, labels=None, **options):
        named = {
            name: source if isinstance(source, SourceSpec) else SourceSpec(source)
            for name, source in (sources or {}).items()
        }
        job = EvaluateJob(checkpoint, named, labels, **{"device": "cpu", **options})
        job.check()
        said = []
        return evaluate(job, Reporter(said.append)), said

    return run


def warnings(said):
    return [event["text"] for event in said if event["event"] == "message" and event["level"] == "warning"]

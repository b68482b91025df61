# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the models share: reference numbers and weights that are the same on every machine."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

DATA = Path(__file__).parents[2] / "data"


def _load_fill():
    spec = importlib.util.spec_from_file_location("reference_fill", DATA / "reference" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_FILL = _load_fill()


@pytest.fixture(autouse=True)
def seeded():
    """Fix torch's global generator, from which weights and dropout are drawn."""
    torch.manual_seed(0)


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

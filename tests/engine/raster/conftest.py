# SPDX-License-Identifier: GPL-2.0-or-later
"""What the raster tests share: modalities, messages, and arrays that can be resampled."""

from pathlib import Path

import numpy as np
import pytest

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.events import Reporter

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def data():
    """The folder of the small real rasters."""
    return DATA


@pytest.fixture
def heard():
    """A reporter, and the list of (level, text) of what it was told."""
    said = []
    return Reporter(lambda event: said.append((event["level"], event["text"]))), said


@pytest.fixture
def modality():
    """A function that makes a modality of the given name and bands."""

    def make(name="optical", bands=("a",), **fields):
        return Modality(name, list(bands), **fields)

    return make


class Memory:
    """An array (C, h, w) with holes, read like a source."""

    def __init__(self, values, valid=None):
        values = np.asarray(values, np.float32)
        self.valid = np.ones(values.shape[1:], bool) if valid is None else np.asarray(valid, bool)
        self.values = np.where(self.valid, values, 0).astype(np.float32)
        self.count, self.height, self.width = values.shape
        self.largest = 0

    def read(self, row, col, height, width):
        self.largest = max(self.largest, height * width)
        values, valid = np.zeros((self.count, height, width), np.float32), np.zeros((height, width), bool)
        top, bottom = max(row, 0), min(row + height, self.height)
        left, right = max(col, 0), min(col + width, self.width)
        if top < bottom and left < right:
            inside = slice(top - row, bottom - row), slice(left - col, right - col)
            values[(slice(None), *inside)] = self.values[:, top:bottom, left:right]
            valid[inside] = self.valid[top:bottom, left:right]
        return values, valid


@pytest.fixture
def memory():
    """The class `Memory`."""
    return Memory

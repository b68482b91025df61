# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of the report: which piece of a scene they show, and that their colours are those of classes and inputs."""

from __future__ import annotations

import base64
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rasterio.io import MemoryFile
from torch import nn

from lacuna.engine.checkpoint.card import ClassInfo, Modality
from lacuna.engine.data.labelled_scenes import LabelledScene
from lacuna.engine.data.splits import TRAIN, VALIDATION
from lacuna.engine.raster.scene import Layer
from lacuna.engine.training.pictures import Gallery, View, choose_view, labels_of, picture

CLASSES = [ClassInfo(1, "one", "#ff0000"), ClassInfo(2, "two", "#00ff00"), ClassInfo(3, "<three>", "#0000ff")]
GREY = (225, 225, 225)
MODALITIES = [Modality("optical", ["red", "nir", "extra"]), Modality("height", ["height"])]


def labelled(labels, window=None, size=None, layers=None):
    """A scene of `size` pixels (rows, columns) whose labels cover `window`, all of them for validation."""
    labels = np.array(labels)
    size = size or labels.shape
    scene = SimpleNamespace(grid=SimpleNamespace(height=size[0], width=size[1]))
    region = np.full(labels.shape, VALIDATION, np.uint8)
    made = LabelledScene(SimpleNamespace(name="place"), scene, window or (0, 0, *labels.shape), labels, region)
    made._cache = layers or {}
    return made


def test_the_piece_with_most_classes_is_shown_and_of_these_that_with_most_labels():
    labels = np.full((40, 40), -1)
    labels[:16, :16] = 0  # many labels, one class
    labels[30, 30:34], labels[31, 30:34] = 1, 2
    view = choose_view([labelled(np.zeros((8, 8), int)), labelled(labels)], VALIDATION, 3, 16)
    assert set(np.unique(labels_of(view, VALIDATION))) == {-1, 1, 2}
    assert (labels_of(view, VALIDATION) >= 0).sum() == 8


def test_labels_of_other_regions_do_not_count():
    labels = np.zeros((20, 20), int)
    one = labelled(labels)
    one.region[:, 10:] = TRAIN
    view = choose_view([one], VALIDATION, 3, 8)
    assert view.column + view.side <= 10
    assert (labels_of(View(one, 0, 6, 8), VALIDATION)[:, 4:] == -1).all()


@pytest.mark.parametrize(
    ("window", "size", "begin"),
    [
        ((50, 60, 10, 20), (200, 200), (39, 54)),
        ((0, 190, 10, 10), (200, 200), (0, 168)),
        ((2, 3, 4, 5), (20, 20), (0, 0)),
    ],
)
def test_a_few_labels_lie_in_the_middle_as_far_as_the_scene_lets_them(window, size, begin):
    view = choose_view([labelled(np.zeros(window[2:], int), window, size)], VALIDATION, 3, 32)
    assert (view.row, view.column) == begin
    shown = labels_of(view, VALIDATION)
    assert shown.shape == (32, 32) and (shown == 0).sum() == window[2] * window[3]


def test_a_picture_spreads_each_band_and_is_grey_without_data():
    values = np.stack([np.linspace(0, 1, 100).reshape(10, 10), np.full((10, 10), 7), np.zeros((10, 10))])
    valid = np.ones((10, 10), bool)
    valid[0, 0] = False
    shown = picture(Layer(values.astype(np.float32), valid), MODALITIES[0])
    assert shown.shape == (3, 10, 10) and shown.dtype == np.uint8
    assert tuple(shown[:, 0, 0]) == GREY
    assert shown[0, 0, 1] == 0 and shown[0, 9, 9] == 255 and (np.diff(shown[0].ravel()[1:].astype(int)) >= 0).all()
    assert (shown[1:, valid] == 0).all()


@pytest.mark.parametrize(
    ("bands", "order"),
    [
        (["B02", "B03", "B04", "B08"], [2, 1, 0]),
        (["nir", "Red", "green", "blue"], [1, 2, 3]),
        (["a", "b", "c"], [0, 1, 2]),
    ],
)
def test_true_colours_where_the_names_of_bands_tell_them(bands, order):
    values = np.random.default_rng(0).normal(size=(len(bands), 6, 6)).astype(np.float32)
    shown = picture(Layer(values, np.ones((6, 6), bool)), Modality("m", bands))
    assert [int(np.corrcoef(shown[i].ravel(), values[band].ravel())[0, 1] > 0.9) for i, band in enumerate(order)] == [
        1
    ] * 3


class Fixed(nn.Module):
    """Says class 2 with all modalities, class 1 with one alone."""

    def forward(self, images):
        some = next(iter(images.values()))
        logits = torch.zeros(1, 3, *some.shape[2:])
        logits[:, len(images)] = 1
        return logits


def pixels(html):
    """The images of a page, as arrays (3, h, w)."""
    found = []
    for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html):
        with warnings.catch_warnings(), MemoryFile(base64.b64decode(data)) as memory:
            warnings.simplefilter("ignore")
            with memory.open() as dataset:
                found.append(dataset.read())
    return found


def test_the_page_shows_inputs_labels_and_a_map_for_each_scenario():
    valid = np.ones((8, 8), bool)
    hole = valid.copy()
    hole[:, 4:] = False
    layers = {
        "optical": Layer(np.zeros((3, 8, 8), np.float32), valid),
        "height": Layer(np.ones((1, 8, 8), np.float32), hole),
    }
    one = labelled(np.full((8, 8), 2), layers=layers)
    order = [("optical",), ("height",), ("optical", "height"), ("optical", "radar")]
    gallery = Gallery(View(one, 0, 0, 8), MODALITIES, CLASSES, order, VALIDATION, torch.device("cpu"))
    gallery.add("before", Fixed())
    gallery.add("after", Fixed())
    page = gallery.html()
    shown = pixels(page)
    # Two inputs, the labels, and two maps for each of the three scenarios that can be shown here.
    assert len(shown) == 2 + 1 + 2 * 3
    assert (shown[2] == np.array([0, 0, 255])[:, None, None]).all()
    both = shown[3]
    assert tuple(both[:, 0, 0]) == (0, 0, 255) and tuple(both[:, 0, 7]) == GREY
    assert tuple(shown[5][:, 0, 7]) == (0, 255, 0)
    assert "radar" not in page and "&lt;three&gt;" in page and "<three>" not in page


def test_what_lies_beyond_the_scene_is_not_shown():
    layers = {"height": Layer(np.ones((1, 5, 6), np.float32), np.ones((5, 6), bool))}
    one = labelled(np.full((5, 6), 1), layers=layers)
    gallery = Gallery(View(one, 0, 0, 8), MODALITIES[1:], CLASSES, [("height",)], VALIDATION, torch.device("cpu"))
    gallery.add("after", Fixed())
    assert [image.shape for image in pixels(gallery.html())] == [(3, 5, 6)] * 3

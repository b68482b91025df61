# SPDX-License-Identifier: GPL-2.0-or-later
"""Other classes: what belongs to a class is found by itself, and kept bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry
from lacuna.engine.models.base import SegmentationModel
from lacuna.engine.models.class_tensors import ClassTensors, compare_builds, transfer
from lacuna.engine.models.names import MODULES

TINY = {"encoder_options": {"width": 8, "depth": 1}, "head_width": 8, "head_dropout": 0.0}
MODALITIES = {"a": 2, "b": 1}


class Plain(SegmentationModel):
    """Class tensors of every kind: rows, blocks of channels, and modules with the number of a class."""

    def __init__(self, modalities, classes, config):
        super().__init__(modalities, classes, config)
        self.stem = nn.Conv2d(2, 4, 1)
        self.heads = nn.ModuleList(nn.ModuleList([nn.ReLU(), nn.Conv2d(4, 3, 1)]) for _ in range(classes))
        self.scale = nn.Parameter(torch.randn(3 * classes))
        self.classify = nn.Conv2d(3 * classes, classes, 1, groups=classes)

    def forward(self, images, size=None):
        x = self.stem(images["a"])
        parts = torch.cat([head[1](head[0](x)) for head in self.heads], 1)
        return self.classify(parts * self.scale[:, None, None])

    latent = losses = settings = preset_config = forward


def resized(model, sources):
    new = type(model)(model.modalities, len(sources), model.model_config)
    new.load_state_dict(transfer(model.state_dict(), new.state_dict(), model.class_tensors(), sources, model.classes))
    return new.eval()


def test_rows_blocks_and_numbered_modules_are_found():
    found = Plain(MODALITIES, 4, None).class_tensors()
    assert found.axes == {"scale": (0,), "classify.weight": (0,), "classify.bias": (0,)}
    assert found.named == ["heads.{}.1.weight", "heads.{}.1.bias"]
    assert len(found.names(4)) == 3 + 8


def test_of_sgma_the_filters_and_the_classifier_are_found():
    model = registry.build("sgma", TINY, MODALITIES, 5)
    before = torch.random.get_rng_state()
    found = model.class_tensors()
    assert torch.equal(torch.random.get_rng_state(), before)
    filters = {f"fusions.{index}.filter.weight": (0,) for index in range(4)}
    assert found == ClassTensors({**filters, "head.classify.weight": (0,), "head.classify.bias": (0,)}, [])


@pytest.mark.parametrize("name", list(MODULES))
@pytest.mark.slow
def test_every_architecture_can_get_other_classes(name):
    model = registry.build(name, TINY if name == "sgma" else {}, MODALITIES, 4).eval()
    again = resized(model, [[0], [1], [2], [3]])
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)
    assert resized(model, [[3], [0], []]).classes == 3


@pytest.mark.parametrize(
    "sources", [[[0], [1], [2], [3], []], [[0], [2]], [[3], [1], [0], [2]], [[], [1], [0, 2], [3], []]]
)
def test_kept_classes_keep_their_logits_exactly(sources):
    model = Plain(MODALITIES, 4, None).eval()
    image = {"a": torch.randn(2, 2, 5, 6)}
    with torch.no_grad():
        old, new = model(image), resized(model, sources)(image)
    assert new.shape[1] == len(sources)
    for index, numbers in enumerate(sources):
        if len(numbers) == 1:
            assert torch.equal(new[:, index], old[:, numbers[0]])


def test_the_logits_of_sgma_follow_its_classes_when_they_change_places():
    model = registry.build("sgma", TINY, MODALITIES, 4).eval()
    image = {"a": torch.randn(2, 2, 32, 40), "b": torch.randn(2, 1, 32, 40)}
    with torch.no_grad():
        old, new = model(image), resized(model, [[2], [0], [3], [1]])(image)
    torch.testing.assert_close(new, old[:, [2, 0, 3, 1]], rtol=1e-5, atol=1e-6)


def test_merged_classes_get_the_mean_and_new_ones_that_of_all():
    model = Plain(MODALITIES, 3, None)
    new = resized(model, [[0, 2], [], [1]]).state_dict()
    old = model.state_dict()["classify.weight"]
    torch.testing.assert_close(new["classify.weight"][0], (old[0] + old[2]) / 2)
    torch.testing.assert_close(new["classify.weight"][1], old.mean(0))
    assert torch.equal(new["classify.weight"][2], old[1])
    assert torch.equal(new["stem.weight"], model.state_dict()["stem.weight"])
    wanted = (model.heads[0][1].weight + model.heads[2][1].weight) / 2
    torch.testing.assert_close(new["heads.0.1.weight"], wanted)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ({"w": torch.zeros(7)}, {"w": torch.zeros(8)}),
        ({"w": torch.zeros(3)}, {}),
        ({"w": torch.zeros(3)}, {"w": torch.zeros(3), "x.9": torch.zeros(1)}),
    ],
)
def test_what_cannot_be_told_is_refused(smaller, larger):
    with pytest.raises(LacunaError) as caught:
        compare_builds(smaller, larger, 3, "other")
    assert caught.value.code == "fixed-classes"

# SPDX-License-Identifier: GPL-2.0-or-later
"""Distortions measured on models: 0 for the full scenario and for what is ignored, exact where the latent is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.errors import LacunaError
from lacuna.engine.events import silent
from lacuna.engine.finetuning.distortion import measure_distortions
from lacuna.engine.models import registry
from lacuna.engine.models.base import SegmentationModel
from lacuna.engine.models.names import MODULES

NAMES = ["a", "b", "c"]
ORDER = scenarios(NAMES)
CPU = torch.device("cpu")


class Sum(SegmentationModel):
    """The latent is the weighted sum of the modalities present; a weight of 0 ignores one."""

    def __init__(self, weights):
        super().__init__(dict.fromkeys(NAMES, 2), 3, None)
        self.weights, self.calls = weights, []

    def latent(self, images, size=None):
        self.calls.append(tuple(images))
        return sum(self.weights[name] * image for name, image in images.items())

    def forward(self, images, size=None):
        raise AssertionError("the decoder was run")

    losses = settings = preset_config = forward


def batches(count=2, size=(6, 4, 4)):
    torch.manual_seed(0)
    return [{name: torch.randn(size[0], 2, *size[1:]) for name in NAMES} for _ in range(count)]


@pytest.mark.parametrize("relative", [False, True])
def test_distortions_are_those_of_the_formula(relative):
    data, weights = batches(), {"a": 1.0, "b": 2.0, "c": -0.5}
    found = measure_distortions(Sum(weights), data, ORDER, CPU, silent(), relative=relative)
    whole = {name: torch.cat([batch[name] for batch in data]).double() * weights[name] for name in NAMES}
    full = sum(whole.values())
    unit = float(full.square().mean()) if relative else 1.0
    for index, scenario in enumerate(ORDER):
        moved = sum(whole[name] for name in scenario) - full
        assert found.mean[index] == pytest.approx(float(moved.square().mean()) / unit, rel=1e-6)
        assert found.shift[index] == pytest.approx(moved.mean(dim=(0, 2, 3)).numpy(), abs=1e-6)
    assert found.samples == 12
    assert (found.error[:-1] > 0).all()


def test_the_full_scenario_has_distortion_exactly_0_and_is_computed_once():
    model = Sum({"a": 1.0, "b": 2.0, "c": 3.0})
    found = measure_distortions(model, batches(), ORDER, CPU, silent(), relative=True)
    assert found.mean[-1] == 0.0 == found.error[-1]
    assert (found.shift[-1] == 0).all()
    assert model.calls.count(("a", "b", "c")) == 2
    assert len(model.calls) == 2 * len(ORDER)


def test_a_modality_that_the_model_ignores_has_no_distortion():
    found = measure_distortions(Sum({"a": 1.0, "b": 0.0, "c": 3.0}), batches(), ORDER, CPU, silent(), relative=True)
    assert found.mean[ORDER.index(("a", "c"))] == 0.0
    assert found.mean[ORDER.index(("a",))] == found.mean[ORDER.index(("a", "b"))] > 0


def test_a_unit_of_the_latent_cancels_out_of_the_relative_distortion():
    small, large = (
        measure_distortions(Sum({"a": k, "b": 2 * k, "c": -k}), batches(), ORDER, CPU, silent(), relative=True)
        for k in (1e-3, 1e3)
    )
    assert small.mean == pytest.approx(large.mean, rel=1e-5)
    assert small.error == pytest.approx(large.error, rel=1e-5)


def test_a_latent_of_zeros_gives_no_nan():
    found = measure_distortions(Sum({"a": 0.0, "b": 0.0, "c": 0.0}), batches(), ORDER, CPU, silent(), relative=True)
    assert (found.mean == 0).all() and (found.error == 0).all()


def test_a_latent_that_is_not_finite_is_told():
    with pytest.raises(LacunaError) as caught:
        measure_distortions(Sum({"a": float("inf"), "b": 1, "c": 1}), batches(), ORDER, CPU, silent(), relative=True)
    assert caught.value.code == "bad-latent"


def test_batches_may_come_as_a_stream_and_one_sample_may_be_enough():
    data, weights = batches(), {"a": 1.0, "b": 2.0, "c": -0.5}
    listed = measure_distortions(Sum(weights), data, ORDER, CPU, silent(), relative=True)
    streamed = measure_distortions(Sum(weights), iter(data), ORDER, CPU, silent(), relative=True)
    assert np.array_equal(listed.mean, streamed.mean) and np.array_equal(listed.shift, streamed.shift)
    single = batches(1, (1, 4, 4))
    with pytest.raises(LacunaError) as caught:
        measure_distortions(Sum(weights), single, ORDER, CPU, silent(), relative=True)
    assert caught.value.code == "no-full-scene" and "a, b, c" in caught.value.text
    assert measure_distortions(Sum(weights), single, ORDER, CPU, silent(), relative=True, least=1).samples == 1


def test_too_many_scenarios_are_refused_before_any_is_measured():
    names = [f"m{index}" for index in range(11)]
    with pytest.raises(LacunaError) as caught:
        measure_distortions(None, [], scenarios(names), CPU, silent(), relative=True)
    assert caught.value.code == "too-many-scenarios"


CONFIGS = {"sgma": {"encoder_options": {"width": 8, "depth": 1}, "head_width": 8}}


@pytest.mark.parametrize("name", list(MODULES))
@pytest.mark.slow
def test_it_works_with_every_architecture(name):
    torch.manual_seed(0)
    model = registry.build(name, CONFIGS.get(name, {}), {"a": 2, "b": 2, "c": 2}, 3).train()
    first, again = (
        measure_distortions(model, batches(1, (2, 33, 40)), ORDER, CPU, silent(), relative=True) for _ in range(2)
    )
    assert not model.training
    assert first.mean[-1] == 0.0
    assert (first.mean[:-1] > 0).all()
    assert np.array_equal(first.mean, again.mean)

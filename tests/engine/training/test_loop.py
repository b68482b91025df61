# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop: rate by step, decay by parameter, weights of classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.models.base import TrainingSettings
from lacuna.engine.models.registry import build
from lacuna.engine.training.loop import make_optimizer, rate_factor, set_rate
from lacuna.engine.training.session import class_weights

SETTINGS = TrainingSettings(
    lr=0.01, weight_decay=0.1, epochs=10, warmup_epochs=2, batch=4, crop=32, encoder_lr_factor=0.5
)


@pytest.fixture
def model():
    config = {"encoder_options": {"width": 4, "depth": 1}, "head_width": 8}
    return build("sgma", config, {"a": 2, "b": 1}, 3)


def test_warm_up_then_polynomial_decay():
    steps = 5
    rates = [rate_factor(SETTINGS, step, steps) for step in range(50)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[5] == pytest.approx(0.55)
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5**0.9)
    assert rates[49] == pytest.approx((1 / 40) ** 0.9)
    assert (np.diff(rates[:11]) > 0).all() and (np.diff(rates[10:]) < 0).all()


def test_a_flat_rate_does_not_know_how_long_the_training_was_to_be():
    short, long = (replace(SETTINGS, schedule="flat", epochs=epochs) for epochs in (10, 40))
    rates = [rate_factor(short, step, 5) for step in range(50)]
    assert rates == [rate_factor(long, step, 5) for step in range(50)]
    assert rates[5] == pytest.approx(0.55) and set(rates[10:]) == {1.0}


def test_a_flat_rate_may_cool_down_at_the_end():
    settings = replace(SETTINGS, schedule="flat", cooldown=0.2)
    rates = [rate_factor(settings, step, 5) for step in range(50)]
    assert set(rates[10:41]) == {1.0}
    assert rates[41:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_without_warm_up_the_first_rate_is_whole():
    settings = TrainingSettings(lr=1, weight_decay=0, epochs=1, warmup_epochs=0, batch=1, crop=8)
    assert rate_factor(settings, 0, 3) == 1.0


def test_no_decay_on_norms_and_biases_and_another_rate_for_the_encoder(model):
    optimizer = make_optimizer(model, SETTINGS)
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(map(id, grouped))) == len(list(model.parameters()))
    encoder = set(map(id, model.encoder_parameters()))
    set_rate(optimizer, SETTINGS, 10, 5)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
            assert group["lr"] == pytest.approx(0.005 if id(parameter) in encoder else 0.01)


def test_what_is_new_has_a_rate_of_its_own(model):
    model.new_parameters = frozenset(model.class_tensors().names(3))
    settings = replace(SETTINGS, new_lr_factor=4.0)
    optimizer = make_optimizer(model, settings)
    set_rate(optimizer, settings, 10, 5)
    rates = {id(item): group["lr"] for group in optimizer.param_groups for item in group["params"]}
    encoder = set(map(id, model.encoder_parameters()))
    for name, parameter in model.named_parameters():
        wanted = 0.04 if name in model.new_parameters else 0.005 if id(parameter) in encoder else 0.01
        assert rates[id(parameter)] == pytest.approx(wanted)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.005, 0.01, 0.04])


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=8).filter(any))
def test_class_weights(counts):
    counts = np.array(counts)
    present = counts > 0
    assert class_weights(counts, "none") is None
    for rule, power in (("sqrt", 0.5), ("inverse", 1.0)):
        found = class_weights(counts, rule)
        assert found.dtype == torch.float32
        assert found[present].mean() == pytest.approx(1, rel=1e-5)
        assert (found[~present] == 1).all()
        products = found.numpy()[present] * counts[present] ** power
        assert products == pytest.approx(np.full(present.sum(), products[0]), rel=1e-4)

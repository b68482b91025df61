# SPDX-License-Identifier: GPL-2.0-or-later
"""The running average of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lacuna.engine.training.average import WeightAverage


def set_to(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_the_average_follows_the_formula():
    model = nn.Linear(2, 1)
    set_to(model, 0.0)
    average = WeightAverage(model, 0.9)
    expected = 0.0
    for step in range(200):
        set_to(model, float(step))
        average.update(model, step)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * step
        assert average.state["weight"][0, 0].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    # In the long run it lags by decay / (1 - decay) steps.
    assert average.state["bias"].item() == pytest.approx(199 - 9, abs=0.01)


def test_without_decay_it_is_the_weights():
    model = nn.BatchNorm2d(3)
    average = WeightAverage(model, 0.0)
    model(torch.randn(2, 3, 4, 4))
    average.update(model, 5)
    assert all(torch.equal(average.state[name], tensor) for name, tensor in model.state_dict().items())


def test_counts_are_copied_and_the_model_is_left_alone():
    model = nn.BatchNorm2d(3)
    average = WeightAverage(model, 0.99)
    model(torch.randn(2, 3, 4, 4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average.update(model, 0)
    assert average.state["num_batches_tracked"] == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_it_can_be_taken_up():
    model = nn.Linear(2, 2)
    first, second = WeightAverage(model, 0.9), WeightAverage(nn.Linear(2, 2), 0.9)
    second.load(first.state)
    set_to(model, 3.0)
    first.update(model, 7)
    second.update(model, 7)
    assert all(torch.equal(second.state[name], tensor) for name, tensor in first.state.items())

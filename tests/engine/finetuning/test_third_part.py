# SPDX-License-Identifier: GPL-2.0-or-later
"""A checkpoint in which Dynamic World answers for itself is fine-tuned by its network, and that is said."""

from __future__ import annotations

import pytest

from lacuna.engine.finetuning.detail import network_of, say_what_stays_behind
from lacuna.engine.models.detail import Detail, DetailConfig
from lacuna.engine.models.joined import join
from lacuna.engine.models.registry import build

WORLD = {"modality": "s2", "classes": [[1.0, 0.0], *[[0.0, 1.0]] * 8]}


@pytest.mark.parametrize(("world", "wanted"), [(None, 0), (WORLD, 1)])
def test_what_dynamic_world_says_by_itself_stays_behind_aloud(heard, world, wanted):
    detail = Detail({"s2": 9}, 2, DetailConfig(priors={"s2": {"places": list(range(9))}}))
    network = build("sgma", {"encoder_options": {"width": 8, "depth": 1}}, {"s2": 9}, 2)
    model = join(network, detail, {}, world)
    say_what_stays_behind(model, heard[0])
    assert len([event for event in heard[1] if "answers for itself" in event["text"]]) == wanted
    assert network_of(model) is model.network

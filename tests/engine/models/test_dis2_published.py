# SPDX-License-Identifier: GPL-2.0-or-later
"""Published weights of DIS2 come in whole, for any size, width and number of classes, or are refused with a reason."""

from __future__ import annotations

import re

import pytest
import torch

from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry
from lacuna.engine.models.dis2_published import published_names

PAIR = {"optical": 4, "dsm": 2}
SIZE = [32, 48]


def kind():
    return registry.architecture("dis2")


def paper_model(**config):
    values = {**kind().preset_config("paper"), "width": 4, "image_size": SIZE, **config}
    return registry.build("dis2", values, PAIR, 3)


def published_state(model):
    """Return the state of `model` as the published code would save it, with parts that it never uses."""
    state = model.state_dict()
    names = published_names(state, list(PAIR))
    found = {names[name]: torch.randn(value.shape) if value.ndim else value for name, value in state.items()}
    found["full_fuse.pool_e3.query"] = torch.zeros(1, 16)
    found["full_fuse.pool_e3.mlp.2.bias"] = torch.zeros(1)
    found["rgb_else_pool.attn_pools.2.query"] = torch.zeros(1, 16)
    found["miss_rgb_classwise_decoder.seg_d4.weight"] = torch.zeros(1, 32, 1, 1)
    found["full_classwise_decoder.e1_conv_up.conv.bias"] = torch.zeros(4)
    return found


def refused(state, config=None, channels=PAIR, classes=3):
    with pytest.raises(LacunaError) as caught:
        kind().import_published(state, {"image_size": SIZE} if config is None else config, channels, classes)
    assert caught.value.code == "bad-import" and caught.value.hint
    return caught.value.text


def test_every_published_name_is_known(reference):
    _, weights = reference("dis2_k5_64x64")
    model = registry.build("dis2", {**kind().preset_config("paper"), "image_size": [64, 64]}, {"rgb": 3, "ndsm": 1}, 5)
    names = published_names(model.state_dict(), ["rgb", "ndsm"]).values()
    dead = [name for name in weights if re.search(r"\.query$|\.seg_d4\.|\.e1_conv_up\.", name)]
    assert len(dead) == 36 and sum(weights[name].numel() for name in dead) == 3_599
    hidden = {name for name in weights if name.endswith(".mlp.2.bias")}
    assert len(set(names)) == len(names) and set(names) | set(dead) | hidden == set(weights)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"width": 8, "image_size": [64, 16], "pool_width": 5, "feed_forward": 11, "class_channels": 2},
        {"head_widths": [6, 7]},
    ],
    ids=["small", "other-widths", "other-head"],
)
def test_sizes_follow_from_the_weights(config):
    model = paper_model(**config)
    state = published_state(model)
    values, own = kind().import_published(state, {"image_size": model.config()["image_size"]}, PAIR, 3)
    twin = registry.build("dis2", values, PAIR, 3)
    twin.load_state_dict(own)
    assert count(twin) == count(model)
    torch.testing.assert_close(
        own["branches.s01.fusion.layers.1.qkv.bias"], state["miss_rgb_fuse.transformer.layers.1.self_attn.in_proj_bias"]
    )
    torch.testing.assert_close(own["compensators.m_dsm.norms.1.running_var"], state["ndsm_else.e3.1.running_var"])


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_prefix_of_parallel_training_and_missing_counters_do_not_matter():
    state = published_state(paper_model())
    plain = kind().import_published(state, {"image_size": SIZE}, PAIR, 3)
    bare = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    other = kind().import_published({f"module.{n}": v.double() for n, v in bare.items()}, {"image_size": SIZE}, PAIR, 3)
    assert other[0] == plain[0] and all(torch.equal(other[1][name], value) for name, value in plain[1].items())
    assert all(value.dtype in (torch.float32, torch.int64) for value in other[1].values())


def test_weights_that_do_not_fit_are_refused_with_the_reason():
    state = published_state(paper_model())
    missing = {name: value for name, value in state.items() if name != "rgb_else.e4.bias"}
    assert "rgb_else.e4.bias is missing" in refused(missing)
    assert "extra.weight is unexpected" in refused({**state, "extra.weight": torch.zeros(1)})
    wrong = {**state, "full_fuse.unify.bias": torch.zeros(7)}
    assert "full_fuse.unify.bias has shape [7], [32] was expected" in refused(wrong)
    assert "is missing" in refused({"weight": torch.zeros(1)})
    assert "more" in refused({name: value for name, value in state.items() if "ndsm_encoder.d" not in name})


def test_cards_that_do_not_fit_are_refused_with_the_reason():
    state = published_state(paper_model())
    assert "3 classes, the card has 4" in refused(state, classes=4)
    assert "4 channels of modality a, the card has 3" in refused(state, channels={"a": 3, "b": 2})
    assert "two modalities, the card has 3" in refused(state, channels={**PAIR, "sar": 1})
    assert "no image_size" in refused(state, config={})
    assert "6 cells" in refused(state, config={"image_size": [64, 64]})


def test_other_architectures_know_no_published_weights():
    with pytest.raises(LacunaError, match="sgma") as caught:
        registry.architecture("sgma").import_published({}, {}, PAIR, 3)
    assert caught.value.code == "bad-import"

# SPDX-License-Identifier: GPL-2.0-or-later
"""Import of published CMX weights: sizes recognised, contradictions and faults named."""

from __future__ import annotations

import pytest
import torch

from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry
from lacuna.engine.models.cmx_import import PUBLISHED, _rows
from lacuna.engine.models.layers import module_key

PAIR = {"rgb": 3, "x": 3}


def load(state, config=None, channels=PAIR, classes=5):
    return registry.architecture("cmx").import_published(state, config or {}, channels, classes)


def build(modalities, classes, **config):
    return registry.build("cmx", {**PUBLISHED, "encoder": "mit_b0", "head_width": 8, **config}, modalities, classes)


def export(model):
    """Return the state of one of our networks as the official code would save it."""
    state = model.state_dict()
    found = {
        name: torch.cat([state[goal] for goal in goals], axis) if len(goals) > 1 else state[goals[0]]
        for name, goals, axis in _rows([module_key(name) for name in model.modalities], state)
    }
    merge = found["decode_head.linear_fuse.0.weight"]
    found["decode_head.linear_fuse.0.weight"] = merge.unflatten(1, (4, -1)).flip(1).flatten(1, 2)
    found["decode_head.linear_fuse.0.bias"] = torch.zeros_like(found["decode_head.linear_fuse.1.bias"])
    linear = {name: value.flatten(1) for name, value in found.items() if ".linear_c" in name and value.ndim > 1}
    return {**found, **linear}


@pytest.fixture
def state(reference):
    return reference("cmx_mit_b0_k5_64x96")[1]


@pytest.mark.parametrize("encoder", [f"mit_b{size}" for size in range(6)])
@pytest.mark.slow
def test_encoder_and_width_are_recognised(encoder):
    with torch.device("meta"):
        model = build(PAIR, 9, encoder=encoder, head_width=24)
    config, ours = load(export(model), classes=9)
    assert (config["encoder"], config["head_width"], config["stem"]) == (encoder, 24, "own")
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }


@pytest.mark.slow
def test_another_size_comes_in_whole(fill_model):
    model = fill_model(build({"rgb": 3, "dsm": 1}, 7, encoder="mit_b1", head_width=24, stem="repeat"))
    config, ours = load(export(model), {"encoder": "mit_b1", "head_width": 24}, model.modalities, 7)
    assert config["stem"] == "repeat"
    twin = registry.build("cmx", config, model.modalities, 7).eval()
    twin.load_state_dict(ours)
    images = {"rgb": torch.randn(1, 3, 40, 56), "dsm": torch.randn(1, 1, 40, 56)}
    with torch.no_grad():
        assert torch.equal(twin(images), model(images))


def test_names_of_data_parallel_training_and_absent_counters_change_nothing(state):
    other = {f"module.{name}": value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    (config, ours), (other_config, other_ours) = load(state), load(other)
    assert config == other_config and list(ours) == list(other_ours)
    assert all(torch.equal(ours[name], other_ours[name]) for name in ours)


def test_the_names_of_the_reference_are_all_used(state):
    model = registry.build("cmx", load(state)[0], PAIR, 5)
    assert set(export(model)) == set(state)


def test_a_single_channel_is_repeated(state, image):
    config, ours = load(state, channels={"rgb": 3, "dsm": 1})
    model = registry.build("cmx", config, {"rgb": 3, "dsm": 1}, 5).eval()
    model.load_state_dict(ours)
    config, ours = load(state)
    colour = registry.build("cmx", config, PAIR, 5).eval()
    colour.load_state_dict(ours)
    rgb, grey = image(11, (1, 3, 32, 64)), image(12, (1, 1, 32, 64))
    with torch.no_grad():
        torch.testing.assert_close(model({"rgb": rgb, "dsm": grey}), colour({"rgb": rgb, "x": grey.repeat(1, 3, 1, 1)}))


def test_the_epsilon_of_the_head_may_be_chosen(state):
    assert load(state)[0]["head_eps"] == 1e-3
    assert load(state, {"head_eps": 1e-5})[0]["head_eps"] == 1e-5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"encoder": "mit_b2"}}, "encoder = 'mit_b0', the card says 'mit_b2'"),
        ({"config": {"head_width": 64}}, "head_width = 128, the card says 64"),
        ({"config": {"norm": "channel"}}, "norm = 'batch'"),
        ({"classes": 6}, "they tell 5 classes apart, the card names 6"),
        ({"channels": {"rgb": 3}}, "two inputs, the card names 1"),
        ({"channels": {"a": 3, "b": 3, "c": 3}}, "two inputs, the card names 3"),
        ({"channels": {"rgb": 3, "s1": 2}}, "take 3 and 3 channels, the card names 3 and 2"),
    ],
)
def test_contradictions_are_named(state, change, said):
    with pytest.raises(LacunaError) as caught:
        load(state, **change)
    assert caught.value.code == "bad-import" and said in caught.value.text and caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("backbone.FFMs.2.cross.norm1.bias", None, "1 missing (backbone.FFMs.2.cross.norm1.bias)"),
        ("backbone.extra_block3.1.attn.q.weight", None, "1 missing (backbone.extra_block3.1.attn.q.weight)"),
        ("aux_head.weight", torch.zeros(3), "1 left over (aux_head.weight)"),
        ("backbone.norm1.bias", torch.zeros(3), "backbone.norm1.bias is (3,), expected (32,)"),
        ("backbone.FRMs.0.channel_weights.mlp.0.weight", torch.zeros(2, 2), "is (2, 2), expected (128, 128)"),
        ("decode_head.linear_c2.proj.weight", torch.zeros(128, 64, 1, 1), "expected (128, 64)"),
        ("decode_head.linear_fuse.0.bias", torch.zeros(1), "is (1,), expected (128,)"),
        ("decode_head.linear_pred.weight", None, "decode_head.linear_pred.weight"),
        ("backbone.patch_embed2.proj.weight", torch.zeros(48, 32, 3, 3), "(32, 48, 160, 256)"),
        ("backbone.block4.2.norm1.bias", torch.zeros(256), "(2, 2, 2, 3) blocks"),
    ],
)
@pytest.mark.slow
def test_faults_are_named(state, name, value, said):
    if value is None:
        del state[name]
    else:
        state[name] = value
    with pytest.raises(LacunaError) as caught:
        load(state)
    assert caught.value.code == "bad-import" and said in caught.value.text and caught.value.hint


def test_other_weights_are_no_cmx(reference):
    with pytest.raises(LacunaError) as caught:
        load(reference("pvt_v2_b0_64x96")[1])
    assert caught.value.code == "bad-import"
    with pytest.raises(LacunaError):
        load({})


def test_an_architecture_without_published_weights_says_so(state):
    with pytest.raises(LacunaError) as caught:
        registry.architecture("sgma").import_published(state, {}, PAIR, 5)
    assert caught.value.code == "bad-import" and "sgma" in caught.value.text and caught.value.hint

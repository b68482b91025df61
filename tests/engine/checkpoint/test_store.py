# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints on disk: what goes in comes out, nothing half-written stays, and nothing unchecked is loaded."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from lacuna.engine.checkpoint import store
from lacuna.engine.checkpoint.card_file import card_from_dict, card_metadata
from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry


class Tiny(nn.Module):
    """A layer, a running count, and two names for one weight: what a real state may hold."""

    def __init__(self, modalities, classes):
        super().__init__()
        self.layer = nn.Linear(sum(modalities.values()), classes)
        self.same = self.layer
        self.register_buffer("count", torch.tensor(3))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(store, "build", _build_tiny)


def _build_tiny(name, config, modalities, classes):
    return Tiny(modalities, classes) if name == "tiny" else registry.build(name, config, modalities, classes)


@pytest.fixture
def card(card_values):
    return card_from_dict({**card_values, "architecture": {"name": "tiny", "config": {}}})


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Tiny({"all": 6}, 2)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model.safetensors")


def test_what_is_saved_comes_back(path, card, model):
    store.save(path, model, card)
    again, loaded = store.load(path)
    assert again == card
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert loaded.state_dict()[name].dtype == tensor.dtype
    assert os.listdir(os.path.dirname(path)) == ["model.safetensors"]


def test_a_state_is_as_good_as_a_model_and_the_bytes_are_the_same(path, card, model, tmp_path):
    store.save(path, model, card)
    other = str(tmp_path / "other.safetensors")
    store.save(other, model.state_dict(), card)
    assert store.sha256(path) == store.sha256(other)


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_process(path, card, model, tmp_path):
    sums = set()
    script = (
        "import json, sys, torch\n"
        "from lacuna.engine.checkpoint import store\n"
        "from lacuna.engine.checkpoint.card_file import card_from_dict\n"
        "store.save(sys.argv[1], {'w': torch.ones(3), 'a': torch.zeros(2)}, card_from_dict(json.loads(sys.argv[2])))\n"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", script, path, json.dumps(card.to_dict())], check=True)
        sums.add(store.sha256(path))
    assert len(sums) == 1


def test_the_library_itself_reads_the_file(path, card, model):
    store.save(path, model, card)
    tensors = safetensors.torch.load_file(path)
    assert torch.equal(tensors["layer.weight"], model.layer.weight)


def test_half_precision_is_smaller_and_comes_back_as_float32(path, card, model, tmp_path):
    whole = str(tmp_path / "whole.safetensors")
    large = nn.Linear(100, 100)
    store.save(whole, large, card)
    store.save(path, large, card, half=True)
    assert os.path.getsize(path) < 0.7 * os.path.getsize(whole)
    store.save(path, model, card, half=True)
    loaded = store.load(path)[1]
    assert loaded.layer.weight.dtype == torch.float32
    assert torch.equal(loaded.layer.weight, model.layer.weight.half().float())
    assert loaded.count.dtype == torch.int64


def test_buffers_are_never_halved(path, card, model):
    """Knots of a code that lie near one another would become one, and numbers beyond half precision infinite."""
    model.register_buffer("knots", torch.tensor([1.0, 1.0001, 3e38]))
    store.save(path, model, card, half=True)
    found = safetensors.torch.load_file(path)
    assert torch.equal(found["knots"], model.knots)
    assert found["layer.weight"].dtype == torch.float16


@pytest.mark.parametrize(("value", "half"), [(float("nan"), False), (float("inf"), False), (1e6, True)])
def test_numbers_that_are_not_finite_are_not_saved(path, card, model, value, half):
    with torch.no_grad():
        model.layer.weight[0, 0] = value
    with pytest.raises(LacunaError, match=r"layer\.weight") as caught:
        store.save(path, model, card, half=half)
    assert caught.value.code == "bad-weights"
    assert os.listdir(os.path.dirname(path)) == []


def test_numbers_that_are_not_finite_are_not_loaded(path, card, model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["layer.bias"][0] = float("nan")
    safetensors.torch.save_file(state, path, metadata=card_metadata(card))
    with pytest.raises(LacunaError, match=r"layer\.bias") as caught:
        store.load(path)
    assert caught.value.code == "bad-weights"


def test_loading_leaves_the_global_generator_alone(path, card, model):
    store.save(path, model, card)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    store.load(path)
    assert torch.equal(torch.rand(3), expected)


def break_state(kind, state):
    """Return `state` with one fault."""
    state = {name: tensor.clone() for name, tensor in state.items()}
    if kind == "missing":
        del state["layer.bias"]
    elif kind == "unexpected":
        state["other.weight"] = torch.zeros(2)
    elif kind == "shape":
        state["layer.weight"] = torch.zeros(2, 7)
    elif kind == "transposed":
        state["layer.weight"] = state["layer.weight"].T.contiguous()
    elif kind == "type":
        state["layer.weight"] = state["layer.weight"].double()
    elif kind == "count":
        state["count"] = state["count"].float()
    return state


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "layer.bias is missing"),
        ("unexpected", "other.weight is unexpected"),
        ("shape", "layer.weight has shape [2, 7], [2, 6] was expected"),
        ("transposed", "layer.weight has shape [6, 2], [2, 6] was expected"),
        ("type", "layer.weight is of type F64, F32 or F16 or BF16 was expected"),
        ("count", "count is of type F32, I64 was expected"),
    ],
)
def test_tensors_that_do_not_fit_are_named_before_any_is_copied(path, card, model, monkeypatch, kind, words):
    safetensors.torch.save_file(break_state(kind, model.state_dict()), path, metadata=card_metadata(card))
    monkeypatch.setattr(store, "_read", lambda *_: pytest.fail("tensors were read"))
    with pytest.raises(LacunaError) as caught:
        store.load(path)
    assert caught.value.code == "wrong-tensors"
    assert words in caught.value.text
    assert path in caught.value.text


def test_only_the_first_faults_are_listed(path, card, model):
    state = {**model.state_dict(), **{f"extra{index}": torch.zeros(1) for index in range(10)}}
    store.save(path, state, card)
    with pytest.raises(LacunaError, match="and 7 more"):
        store.load(path)


def test_an_unknown_architecture_is_refused(path, card, model):
    card.architecture["name"] = "os.system"
    store.save(path, model, card)
    with pytest.raises(LacunaError) as caught:
        store.load(path)
    assert caught.value.code == "unknown-architecture"


def test_an_encoder_file_is_refused_with_a_clear_word(path):
    safetensors.torch.save_file({"w": torch.zeros(2)}, path, metadata={"lacuna_encoder": "{}"})
    with pytest.raises(LacunaError) as caught:
        store.load(path)
    assert caught.value.code == "encoder-file"
    assert "encoder" in caught.value.text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_what_was_there(path, card, model, monkeypatch, number):
    store.save(path, model, card)
    before = store.sha256(path)

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LacunaError) as caught:
        store.save(path, {"w": torch.zeros(5)}, card)
    assert caught.value.code == "disk-full"
    assert os.path.dirname(path) in caught.value.text
    assert store.sha256(path) == before
    assert os.listdir(os.path.dirname(path)) == ["model.safetensors"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_disk_that_is_really_full_is_said(path, card, model):
    os.symlink("/dev/full", path + ".part")
    with pytest.raises(LacunaError) as caught:
        store.save(path, model, card)
    assert caught.value.code == "disk-full"
    assert os.listdir(os.path.dirname(path)) == []


def test_a_folder_that_is_not_there_is_said(tmp_path, card, model):
    with pytest.raises(LacunaError) as caught:
        store.save(str(tmp_path / "none" / "model.safetensors"), model, card)
    assert caught.value.code == "file-error"


def test_a_card_with_a_fault_is_never_written(path, card, model):
    card.reference = "thermal"
    with pytest.raises(LacunaError) as caught:
        store.save(path, model, card)
    assert caught.value.code == "bad-card"
    assert os.listdir(os.path.dirname(path)) == []


@pytest.mark.parametrize("half", [False, True])
def test_another_card_over_the_same_weights_gives_the_bytes_of_a_fresh_save(path, card, model, tmp_path, half):
    store.save(path, model, card, half=half)
    other = card_from_dict({**card.to_dict(), "description": "x" * 3 * store._BLOCK, "scores_on": "elsewhere"})
    store.rewrite_card(path, other)
    fresh = str(tmp_path / "fresh.safetensors")
    store.save(fresh, model, other, half=half)
    assert store.sha256(path) == store.sha256(fresh)
    assert sorted(os.listdir(tmp_path)) == ["fresh.safetensors", "model.safetensors"]


def test_a_disk_that_fills_while_a_card_is_rewritten_leaves_the_old_file(path, card, model, monkeypatch):
    store.save(path, model, card)
    before = store.sha256(path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(LacunaError) as caught:
        store.rewrite_card(path, card)
    assert caught.value.code == "disk-full"
    assert store.sha256(path) == before
    assert os.listdir(os.path.dirname(path)) == ["model.safetensors"]


def test_a_card_with_a_fault_does_not_replace_a_good_one(path, card, model):
    store.save(path, model, card)
    before = store.sha256(path)
    card.scores = [{"available": ["nowhere"], "miou": 2.0}]
    with pytest.raises(LacunaError, match="scores"):
        store.rewrite_card(path, card)
    assert store.sha256(path) == before


def test_a_real_model_gives_the_same_logits_after_the_way_through_a_file(path, card_values):
    card = card_from_dict({**card_values, "architecture": {"name": "sgma", "config": {}}})
    channels = {item.name: len(item.bands) for item in card.modalities}
    torch.manual_seed(0)
    model = registry.build("sgma", {"encoder": "resnet_small"}, channels, len(card.classes)).eval()
    card.architecture["config"] = model.config()
    store.save(path, model, card)
    loaded = store.load(path)[1]
    images = {name: torch.randn(1, count, 64, 64) for name, count in channels.items()}
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))

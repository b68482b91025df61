# SPDX-License-Identifier: GPL-2.0-or-later
"""LoRA and frozen parts: nothing changes at first, only adapters learn, and what is merged computes the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.store import load, save, sha256
from lacuna.engine.errors import LacunaError
from lacuna.engine.finetuning.lora import (
    LoraConfig,
    LowRank,
    adapter_tensors,
    adapters,
    add_lora,
    apply_adapters,
    lora_settings,
    merge_lora,
    save_adapters,
)
from lacuna.engine.finetuning.trainable import choose_trainable, count_trained
from lacuna.engine.models import registry
from lacuna.engine.training.loop import training_mode

SMALL = {"encoder_options": {"width": 16, "depth": 1}, "head_width": 16, "head_dropout": 0.0}
RESNET = {"encoder": "resnet18", "fusion_widths": [16, 16, 24, 24], "head_width": 16}
MODALITIES = {"a": 2, "b": 1}
IMAGES = {"a": torch.randn(2, 2, 32, 40), "b": torch.randn(2, 1, 32, 40)}
TARGET = torch.randint(0, 4, (2, 32, 40))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return registry.build("sgma", SMALL, MODALITIES, 4)


def disturb(model):
    """Give adapters something to say."""
    with torch.no_grad():
        for adapter in adapters(model).values():
            adapter.B.normal_(0, 0.1)


@pytest.mark.parametrize(
    "layer", [nn.Linear(12, 9), nn.Conv2d(12, 9, 1), nn.Conv2d(12, 10, 3), nn.Conv2d(8, 12, 3, groups=4)]
)
def test_the_update_is_alpha_over_rank_times_b_a(layer):
    before, rank, alpha = layer.weight.detach().clone(), 2, 6.0
    assert add_lora(nn.Sequential(layer), LoraConfig(rank, alpha)) == ["0"]
    adapter = layer.parametrizations.weight[0]
    assert adapter.A.shape == (rank, before[0].numel()) and adapter.B.shape == (before.shape[0], rank)
    assert torch.equal(layer.weight, before)
    with torch.no_grad():
        adapter.B.normal_()
    wanted = before + (alpha / rank * (adapter.B @ adapter.A)).reshape(before.shape)
    torch.testing.assert_close(layer.weight, wanted)


def test_a_network_computes_as_before_until_adapters_learn(model):
    model.eval()
    with torch.no_grad():
        before = model(IMAGES)
        names = add_lora(model, LoraConfig())
        assert torch.equal(model(IMAGES), before)
    assert names
    assert all(isinstance(adapter, LowRank) for adapter in adapters(model).values())


def test_only_adapters_get_gradients(model):
    choose_trainable(model, "lora", LoraConfig(), new_classes=False)
    disturb(model)
    training_mode(model)
    model.losses(IMAGES, TARGET)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.endswith((".A", ".B")), name
        assert (parameter.grad is not None) <= parameter.requires_grad
    learned = [adapter for adapter in adapters(model).values() if adapter.B.grad is not None]
    assert len(learned) == len(adapters(model))
    counts = count_trained(model)
    assert counts["trained"] == counts["lora"] < counts["all"] / 2


def test_a_step_leaves_the_base_weights_as_they_are(model):
    choose_trainable(model, "lora", LoraConfig(), new_classes=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.endswith((".A", ".B"))}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    training_mode(model)
    for _ in range(2):
        model.losses(IMAGES, TARGET)["total"].backward()
        optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(adapter.B.abs().max() > 0 for adapter in adapters(model).values())


@pytest.mark.parametrize("config", [SMALL, RESNET])
def test_merged_weights_compute_the_same_bits(config):
    torch.manual_seed(0)
    model = registry.build("sgma", config, MODALITIES, 4).eval()
    names = set(model.state_dict())
    add_lora(model, LoraConfig(rank=2))
    disturb(model)
    with torch.no_grad():
        adapted = model(IMAGES)
        merge_lora(model)
        assert torch.equal(model(IMAGES), adapted)
    assert set(model.state_dict()) == names
    assert not adapters(model)


def test_layers_are_chosen_by_name(model):
    names = add_lora(model, LoraConfig(layers=["fusions.*.query", "head.merge"]))
    assert "head.merge" in names and "fusions.0.spatial.query" in names
    assert all(name == "head.merge" or name.endswith(".query") for name in names)


def test_a_layer_smaller_than_its_adapter_is_left_alone(model):
    names = add_lora(model, LoraConfig(rank=4))
    assert "head.classify" not in names  # 4 x 16 numbers; the adapter would have 80


@pytest.mark.parametrize("config", [LoraConfig(layers=["none.*"]), LoraConfig(rank=1000)])
def test_no_layer_is_told(model, config):
    with pytest.raises(LacunaError) as caught:
        add_lora(model, config)
    assert caught.value.code == "bad-config"


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}, {"layers": []}])
def test_settings_out_of_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoraConfig(**wrong)


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_head_trains_what_has_a_part_for_each_class(model):
    choose_trainable(model, "head", LoraConfig(), new_classes=False)
    filters = {f"fusions.{index}.filter.weight" for index in range(4)}
    assert trained_names(model) == {"head.classify.weight", "head.classify.bias"} | filters


def test_decoder_freezes_the_encoder(model):
    choose_trainable(model, "decoder", LoraConfig(), new_classes=False)
    frozen = {name for name, _ in model.named_parameters()} - trained_names(model)
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("encoder.")}


def test_with_new_classes_lora_trains_the_head_as_well(model):
    choose_trainable(model, "lora", LoraConfig(), new_classes=True)
    assert {"head.classify.weight", "head.classify.bias"} <= trained_names(model)
    assert "head.merge.parametrizations.weight.original" not in trained_names(model)


@pytest.mark.parametrize("method", ["decoder", "lora"])
def test_statistics_of_frozen_norms_do_not_move(method):
    torch.manual_seed(0)
    model = registry.build("sgma", RESNET, MODALITIES, 4)
    choose_trainable(model, method, LoraConfig(), new_classes=False)
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert any("running_mean" in name for name in before)
    training_mode(model)
    model.losses(IMAGES, TARGET)["total"]
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    choose_trainable(fresh := registry.build("sgma", RESNET, MODALITIES, 4), "full", LoraConfig(), False)
    before = {name: value.clone() for name, value in fresh.named_buffers()}
    training_mode(fresh)
    fresh.losses(IMAGES, TARGET)["total"]
    assert any(not torch.equal(value, before[name]) for name, value in fresh.named_buffers())


def test_an_adapter_file_makes_the_merged_weights_of_its_base_again(model, make_checkpoint, tmp_path):
    bands = {"a": ["x", "y"], "b": ["z"]}
    base = make_checkpoint(architecture="sgma", config=SMALL, modalities=bands, classes=4)
    card, tuned = load(base)
    config = LoraConfig(rank=2, alpha=3.0)
    add_lora(tuned, config)
    disturb(tuned)
    tensors = adapter_tensors(tuned)
    merge_lora(tuned)
    with torch.no_grad():
        tuned.head.classify.bias += 1
    path = str(tmp_path / "adapter.safetensors")
    save_adapters(path, tensors, {"head.classify.bias": tuned.head.classify.bias}, config, sha256(base), card)
    again_card, again = apply_adapters(base, path)
    assert again_card == card
    for name, tensor in tuned.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    other = str(tmp_path / "other.safetensors")
    save(other, tuned, card)
    with pytest.raises(LacunaError, match="belongs to the checkpoint") as caught:
        apply_adapters(other, path)
    assert caught.value.code == "bad-adapter"
    with pytest.raises(LacunaError) as caught:
        apply_adapters(base, other)
    assert caught.value.code == "bad-adapter"
    with pytest.raises(LacunaError) as caught:
        read_card(path)
    assert caught.value.code == "adapter-file"


def test_half_precision_does_not_reach_the_update():
    layer = nn.Linear(32, 32)
    add_lora(nn.Sequential(layer), LoraConfig())
    with torch.no_grad():
        layer.parametrizations.weight[0].B.normal_()
        wanted = layer.weight.clone()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer.weight, wanted)
            assert F.linear(torch.ones(1, 32), layer.weight).dtype == torch.bfloat16


CBC = {"encoder_options": {"width": 8, "depth": 1}, "token_width": 64, "latent_width": 32}


@pytest.mark.parametrize("name", ["cbc", "cbc_slp"])
def test_published_adapters_of_cbc_lie_in_the_joint_attention_and_the_early_fusions(name):
    torch.manual_seed(0)
    model = registry.build(name, CBC, MODALITIES, 4)
    config = lora_settings({"preset": "paper"}, type(model), "table lora")
    assert (config.rank, config.alpha) == (4, 4)
    choose_trainable(model, "lora", config, new_classes=False)
    mixing = [f"fusions.{level}.0.parts" for level in range(4)] + ["joint.early.0.parts"]
    wanted = {"joint.layer.qkv", "joint.layer.out"} | {f"{place}.m_{key}" for place in mixing for key in MODALITIES}
    assert set(adapters(model)) == wanted
    assert count_trained(model)["trained"] == count_trained(model)["lora"] > 0
    assert {adapter.scale for adapter in adapters(model).values()} == {1.0}


def test_published_adapters_of_cmx_lie_everywhere_but_in_the_decoder():
    model = registry.build("cmx", {"encoder_options": {"width": 16, "depth": 1}}, MODALITIES, 4)
    names = add_lora(model, lora_settings({"preset": "paper"}, type(model), "table lora"))
    everywhere = registry.build("cmx", {"encoder_options": {"width": 16, "depth": 1}}, MODALITIES, 4)
    assert names == [name for name in add_lora(everywhere, LoraConfig(alpha=4.0)) if not name.startswith("head.")]
    assert {name.split(".")[0] for name in names} == {"encoders", "rectifications", "fusions"}


def test_settings_go_before_those_that_are_published():
    kind = registry.architecture("cbc")
    config = lora_settings({"preset": "paper", "rank": 2, "layers": ["fusions.*"]}, kind, "table lora")
    assert config == LoraConfig(2, 2, ["fusions.*"], False, "paper")
    assert lora_settings({}, kind, "table lora") == LoraConfig()


@pytest.mark.parametrize("name", ["sgma", "dis2"])
def test_where_no_adapters_are_published_that_is_said(name):
    with pytest.raises(LacunaError, match=f"architecture {name}") as caught:
        lora_settings({"preset": "paper"}, registry.architecture(name), "table lora of x.toml")
    assert caught.value.code == "bad-config" and "x.toml" in caught.value.text and "layers" in caught.value.hint

# SPDX-License-Identifier: GPL-2.0-or-later
"""SGMA: the maths of its fusion against the plain form, its parameter count, its sampling, and stored logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lacuna.engine.models import registry
from lacuna.engine.models.sgma import (
    Projector,
    RobustnessPerceptron,
    SemanticFusion,
    SpatialPerceptron,
    _draw,
    sampling_probabilities,
)

TINY = {"encoder_options": {"width": 8, "depth": 1}, "head_width": 16, "head_dropout": 0.0}
MODALITIES = {"optical": 4, "sar": 2, "dsm": 1}


def make(**config):
    return registry.build("sgma", {**TINY, **config}, MODALITIES, 5)


def draw(names=MODALITIES, size=(32, 48), batch=2):
    return {name: torch.randn(batch, MODALITIES[name], *size) for name in names}


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_fusion_has_the_size_of_the_paper(preset):
    kind = registry.architecture("sgma")
    config = {**kind.preset_config(preset), "encoder": "pvt_v2_b2"}
    with torch.device("meta"):
        model = registry.build("sgma", config, {"rgb": 3, "dsm": 1, "nir": 1}, 5)
    fusion = [*model.projectors.values(), *model.fusions]
    assert sum(item.numel() for module in fusion for item in module.parameters()) == 4_790_272


def test_the_preset_of_the_paper():
    kind = registry.architecture("sgma")
    settings = kind.settings("paper")
    assert (settings.lr, settings.weight_decay, settings.eps) == (6e-5, 1e-2, 1e-8)
    assert (settings.epochs, settings.warmup_epochs, settings.warmup_ratio, settings.poly_power) == (200, 10, 0.1, 0.9)
    assert (settings.crop, settings.batch, settings.encoder_lr_factor) == (512, 4, 1.0)
    assert kind.preset_config("paper")["sgf_dropout"] == 0.0


def test_many_channels_are_reduced_before_the_fusion():
    with torch.device("meta"):
        model = registry.build("sgma", {"encoder": "resnet50"}, {"rgb": 3}, 5)
    assert model.widths == [64, 128, 320, 512] and model.projectors["m_rgb"][3].reduce.in_channels == 2048


def test_the_projector_is_three_depthwise_convolutions_side_by_side():
    projector = Projector(6, 6)
    x = torch.randn(2, 6, 13, 9)
    with torch.no_grad():
        mixed = sum(conv(x) for conv in projector.depthwise)
        wanted = projector.pointwise(mixed.permute(0, 2, 3, 1)).flatten(1, 2)
        torch.testing.assert_close(projector(x), wanted, rtol=1e-5, atol=1e-6)


def test_the_projector_starts_close_to_the_pixel():
    projector = Projector(64, 64)
    kernel = projector.kernel()[:, 0]
    centre = kernel[:, 5, 5]
    rest = (kernel**2).sum((1, 2)) - centre**2
    assert (centre > 0.7).all() and (rest < 0.5 * centre**2).all()


def test_prototypes_are_means_weighted_over_all_places():
    fusion = SemanticFusion(6, 4, 2)
    tokens = torch.randn(1, 3, 10, 6)
    places = tokens[0].reshape(30, 6)
    with torch.no_grad():
        wanted = torch.stack([(F.softmax(places @ row, 0)[:, None] * places).sum(0) for row in fusion.filter.weight])
        torch.testing.assert_close(fusion.prototypes(tokens)[0], wanted, rtol=1e-5, atol=1e-6)
        doubled = fusion.prototypes(tokens.repeat(1, 1, 2, 1))
        torch.testing.assert_close(doubled[0], wanted, rtol=1e-5, atol=1e-6)


def reference_attention(layer, width, heads):
    """Return torch's own multi-head attention with the weights of `layer`."""
    attention = torch.nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]))
        attention.out_proj.weight.copy_(layer.out.weight)
    return attention.eval()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_spatial_perceptron_equals_one_attention_for_each_class(heads):
    layer, (batch, present, places, width, classes) = SpatialPerceptron(8, heads), (2, 3, 7, 8, 5)
    prototypes, tokens = torch.randn(batch, classes, width), torch.randn(batch, present, places, width)
    attention = reference_attention(layer, width, heads)
    keys = tokens.transpose(1, 2).reshape(batch * places, present, width)
    with torch.no_grad():
        answers = [
            attention(prototypes[:, None, [k]].expand(-1, places, -1, -1).reshape(-1, 1, width), keys, keys)[0]
            for k in range(classes)
        ]
        wanted = torch.stack(answers).mean(0).view(batch, places, width)
        torch.testing.assert_close(layer(prototypes, tokens), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_robustness_perceptron_equals_multi_head_attention(heads):
    layer, (batch, present, places, width) = RobustnessPerceptron(8, heads), (2, 3, 7, 8)
    reference, tokens = torch.randn(batch, places, width), torch.randn(batch, present, places, width)
    keys = tokens.transpose(1, 2).reshape(batch * places, present, width)
    with torch.no_grad():
        wanted, weights = reference_attention(layer, width, heads)(reference.reshape(-1, 1, width), keys, keys)
        fused, robustness = layer(reference, tokens)
    torch.testing.assert_close(fused, wanted.view(batch, places, width), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(robustness, weights.view(batch, places, present).transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_robustness_weights_share_out_one_among_those_present():
    model = make().eval()
    with torch.no_grad():
        for names in [["sar"], ["sar", "dsm"], list(MODALITIES)]:
            scales = model.robustness(draw(names))
            assert len(scales) == 4
            for level, scale in enumerate(scales):
                assert list(scale) == names
                total = sum(scale.values())
                assert total.shape == (2, 32 // model.strides[level], 48 // model.strides[level])
                torch.testing.assert_close(total, torch.ones_like(total))
                assert len(names) > 1 or (scale["sar"] == 1).all()


def test_alone_a_modality_passes_through_the_value_and_output_layers():
    fusion = SemanticFusion(8, 5, 2)
    tokens = torch.randn(2, 1, 6, 8)
    with torch.no_grad():
        fused, weights = fusion(tokens)
        wanted = fusion.robustness.out(fusion.robustness.value(tokens[:, 0]))
    torch.testing.assert_close(fused, wanted)
    assert (weights == 1).all()


def test_sampling_prefers_the_fragile_by_the_soft_minimum():
    scores = [torch.randn(3, 4, 20), torch.randn(3, 4, 5)]
    found = sampling_probabilities([score.softmax(1) for score in scores])
    wanted = torch.stack([(-score).softmax(1).mean(-1) for score in scores]).mean(0)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    third = torch.tensor([[[0.5], [0.25], [0.25]]])
    torch.testing.assert_close(sampling_probabilities([third]), torch.tensor([[0.2, 0.4, 0.4]]))


def test_sampling_survives_weights_of_nought():
    found = sampling_probabilities([torch.tensor([[[1.0], [0.0]]])])
    assert torch.isfinite(found).all() and found[0, 1] > 0.99


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([[0.2, 0.5, 0.3]]).repeat(20000, 1)
    drawn = _draw(probabilities, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, probabilities[0], atol=0.02, rtol=0)
    sure = _draw(torch.tensor([[0.0, 1.0, 0.0]]).repeat(100, 1), torch.Generator().manual_seed(0))
    assert (sure == 1).all()


def test_the_objective_is_two_parts_fused_and_one_part_alone():
    model = make().eval()
    images, target = draw(), torch.randint(0, 5, (2, 32, 48))
    target[:, :4] = -1
    with torch.no_grad():
        losses = model.losses(images, target, generator=torch.Generator().manual_seed(3))
        fused = F.cross_entropy(model(images), target, ignore_index=-1)
        alone = [
            [F.cross_entropy(model({name: images[name][[row]]}), target[[row]], ignore_index=-1) for name in images]
            for row in (0, 1)
        ]
    torch.testing.assert_close(losses["sgf"], fused)
    pairs = [(first + second) / 2 for first in alone[0] for second in alone[1]]
    assert min(abs(losses["mas"] - pair) for pair in pairs) < 1e-5
    torch.testing.assert_close(losses["total"], 2 * losses["sgf"] + losses["mas"])


def test_the_encoder_runs_once_for_each_modality():
    model = make().train()
    calls = []
    model.encoder.register_forward_hook(lambda module, inputs, output: calls.append(inputs[1]))
    model.losses(draw(), torch.randint(0, 5, (2, 32, 48)))
    assert len(calls) == len(set(calls)) <= len(MODALITIES)


def test_dropout_of_modalities_trains_every_scenario_between():
    names = list(MODALITIES)
    generator = torch.Generator().manual_seed(0)
    model = make(sgf_dropout=0.5).train()
    drawn = [tuple(model._training_subset(names, generator)) for _ in range(400)]
    pairs = [("optical", "sar"), ("optical", "dsm"), ("sar", "dsm")]
    assert set(drawn) == {tuple(names), *pairs}
    assert 0.4 < drawn.count(tuple(names)) / 400 < 0.6
    assert all(drawn.count(pair) > 30 for pair in pairs)
    assert model.eval()._training_subset(names, generator) == names
    assert make(sgf_dropout=0.0).train()._training_subset(names, generator) == names


def test_the_latent_is_the_coarsest_fused_map():
    model = make().eval()
    with torch.no_grad():
        assert model.latent(draw(["sar"], (33, 48))).shape == (2, 32, 3, 3)


def test_half_precision_stays_close():
    model = make().eval()
    images = draw()
    with torch.no_grad():
        full = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images)
    assert (full - half.float()).abs().max() < 0.05 * full.abs().max()


def test_logits_are_as_stored(image, fill_model, as_stored):
    model = fill_model(make())
    images = {name: image(seed, (1, MODALITIES[name], 20, 28)) for seed, name in enumerate(MODALITIES, start=41)}
    for names in [["optical", "sar", "dsm"], ["sar", "dsm"], ["dsm"]]:
        as_stored("sgma", "_".join(names), model, {name: images[name] for name in names})


@pytest.mark.parametrize("available", [["optical", "dsm"], ["sar"], list(MODALITIES)])
def test_a_scenario_that_is_told_is_fused_and_sampling_still_sees_all(available):
    model = make(sgf_dropout=1.0).train()
    images, target = draw(), torch.zeros(2, 32, 48, dtype=torch.int64)
    sampled = set()
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        parts = model.losses(images, target, available=available, generator=generator)
        wanted = F.cross_entropy(model({name: images[name] for name in available}), target)
        torch.testing.assert_close(parts["sgf"], wanted)
        sampled.add(round(float(parts["mas"].detach()), 5))
    assert set(parts) == {"sgf", "mas", "total"}
    assert len(sampled) > 3

# SPDX-License-Identifier: GPL-2.0-or-later
"""CBC and CBC-SLP: the maths against plain forms, what is present and nothing else, places kept, and stored logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.models import registry
from lacuna.engine.models.cbc import (
    InstanceNorm,
    InterAttention,
    JointFusion,
    PresentConv,
    SplitLatent,
    TransformerLayer,
    draw_scenarios,
)
from lacuna.engine.models.encoders import build_encoder

SMALL = {"level_widths": [4, 8, 8, 8, 8], "token_width": 16, "heads": 2, "latent_width": 12, "dropout": 0.0}
TINY = {"encoder_options": {"width": 8, "depth": 1}, **SMALL}
MODALITIES = {"optical": 4, "sar": 2, "dsm": 1}
NAMES = list(MODALITIES)
BOTH = ["cbc", "cbc_slp"]


def make(name="cbc", modalities=MODALITIES, **config):
    return registry.build(name, {**TINY, **config}, modalities, 5)


def draw(names=NAMES, size=(32, 48), batch=2):
    return {name: torch.randn(batch, MODALITIES[name], *size) for name in names}


def maps(names, channels, batch=2, size=(3, 4)):
    return {name: torch.randn(batch, channels, *size) for name in names}


def paper(name):
    kind = registry.architecture(name)
    with torch.device("meta"):
        model = registry.build(name, kind.preset_config("paper"), {"rgb": 3, "nir": 3, "swir": 3}, 2)
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_split_adds_as_many_parameters_as_in_the_published_code():
    assert paper("cbc") == 81_153_714
    assert paper("cbc_slp") - paper("cbc") == 67_776


@pytest.mark.parametrize("name", BOTH)
def test_the_preset_of_the_paper(name):
    kind = registry.architecture(name)
    settings = kind.settings("paper")
    assert (settings.optimizer, settings.lr, settings.weight_decay) == ("adam", 1e-4, 0.0)
    assert (settings.schedule, settings.epochs, settings.warmup_epochs, settings.crop) == ("step", 70, 0, 224)
    with torch.device("meta"):
        model = registry.build(name, kind.preset_config("paper"), {"rgb": 3}, 2)
        assert model.latent({"rgb": torch.zeros(2, 3, 224, 224)}).shape == (2, 192, 8, 8)
    assert model.strides == (4, 4, 8, 16, 32)


@pytest.mark.parametrize("present", scenarios(NAMES))
def test_the_attention_between_modalities_is_that_of_one_image_and_of_those_present(present):
    layer, width = InterAttention(NAMES, 6), 6
    tokens = maps(present, width, batch=3)
    with torch.no_grad():
        found = layer(tokens)
        assert list(found) == list(present)
        for row in range(3):
            query, key, value = {}, {}, {}
            for name, x in tokens.items():
                query[name], key[name], value[name] = layer.qkv[f"m_{name}"](x[row : row + 1])[0].split(width)
            for name in present:
                scores = torch.stack([query[name] * key[other] / 3**0.5 for other in present])
                weights = scores.exp() / scores.exp().sum(0)
                wanted = sum(weight * value[other] for weight, other in zip(weights, present))
                torch.testing.assert_close(found[name][row], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("norm", ["channel", "instance"])
@pytest.mark.parametrize("present", [NAMES, ["sar", "dsm"], ["dsm"]])
def test_nothing_is_mixed_between_the_images_of_a_batch(name, norm, present):
    model = make(name, norm=norm).double().eval()
    images = {key: image.double() for key, image in draw(present, batch=3).items()}
    with torch.no_grad():
        together = model(images)
        alone = [model({key: image[row : row + 1] for key, image in images.items()}) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)


def test_alone_a_modality_gathers_its_own_values():
    layer, tokens = InterAttention(NAMES, 6), maps(["sar"], 6)
    with torch.no_grad():
        torch.testing.assert_close(layer(tokens)["sar"], layer.qkv["m_sar"](tokens["sar"])[:, 12:])


def test_with_all_present_the_mixing_is_the_convolution_of_their_concatenation():
    layer, given = PresentConv(NAMES, 4, 7), maps(NAMES, 4)
    torch.nn.init.normal_(layer.bias)
    weight = torch.cat([part.weight for part in layer.parts.values()], 1) / 3
    with torch.no_grad():
        wanted = F.conv2d(torch.cat(list(given.values()), 1), weight, layer.bias.flatten())
        torch.testing.assert_close(layer(given), wanted, rtol=1e-5, atol=1e-6)


def test_the_size_of_the_mixture_does_not_depend_on_how_many_are_present():
    layer, x = PresentConv(NAMES, 4, 7), torch.randn(2, 4, 3, 5)
    for part in layer.parts.values():
        part.weight.data.copy_(layer.parts["m_sar"].weight)
    with torch.no_grad():
        mixtures = [layer(dict.fromkeys(present, x)) for present in scenarios(NAMES)]
    for mixture in mixtures[1:]:
        torch.testing.assert_close(mixture, mixtures[0], rtol=1e-5, atol=1e-6)


def test_the_split_with_all_present_is_the_convolution_of_all_parts():
    model = make("cbc_slp")
    split, latent, mixed = model.start, torch.randn(2, 12, 3, 4), maps(NAMES, 16)
    with torch.no_grad():
        shared, private = split.parts(latent, mixed)
        weights = [split.merge_shared.weight, *(part.weight / 3 for part in split.merge_private.parts.values())]
        wanted = F.conv2d(torch.cat([shared, *private.values()], 1), torch.cat(weights, 1))
        torch.testing.assert_close(split(latent, mixed), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 4])
def test_a_layer_of_attention_is_that_of_torch(heads):
    layer = TransformerLayer(8, heads, 0.1).eval()
    plain = torch.nn.TransformerEncoderLayer(8, heads, 8, 0.1, "gelu", batch_first=True, norm_first=True).eval()
    for norm in (layer.norm1, layer.norm2):
        torch.nn.init.normal_(norm.weight)
    own = layer.state_dict()
    names = {"out": "self_attn.out_proj", "feed.0": "linear1", "feed.3": "linear2", "norm1": "norm1", "norm2": "norm2"}
    state = {f"{theirs}.{kind}": own[f"{ours}.{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")}
    state |= {"self_attn.in_proj_weight": own["qkv.weight"], "self_attn.in_proj_bias": torch.zeros(24)}
    plain.load_state_dict(state)
    tokens = torch.randn(2, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(layer(tokens), plain(tokens), rtol=1e-5, atol=1e-6)


def test_the_joint_latent_keeps_every_token_at_its_place():
    model = make().eval()
    joint: JointFusion = model.joint
    torch.nn.init.normal_(joint.positions)
    order = torch.randperm(12)

    def moved(given):
        return {name: x.flatten(2)[..., order].view_as(x) for name, x in given.items()}

    for present in scenarios(NAMES):
        tokens, gathered = maps(present, 16), maps(present, 8)
        with torch.no_grad():
            latent, other = joint(tokens, gathered), joint(moved(tokens), moved(gathered))
        torch.testing.assert_close(other, moved({"z": latent})["z"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [None, 8])
@pytest.mark.parametrize(("row", "column"), [(1, 6), (6, 1), (4, 4)])
def test_a_change_at_one_place_moves_the_latent_there(grid, row, column):
    model = make(token_grid=grid).eval()
    images = draw(size=(128, 128), batch=1)
    changed = {**images, "sar": images["sar"].clone()}
    changed["sar"][..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 3.0
    with torch.no_grad():
        change = (model.latent(changed) - model.latent(images)).abs().mean((0, 1))
    near = change[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
    assert change.shape == (8, 8)
    assert near.max() == change.max() and near.max() > 10 * change.median()


def test_positions_are_for_places_only_where_their_number_is_fixed():
    free, fixed = make(), make(token_grid=6)
    assert free.token_grid((100, 64)) == ((7, 4), (16.0, 16.0))
    assert fixed.token_grid((120, 60)) == ((6, 6), (20.0, 10.0))
    assert free.joint.positions.shape == (1, 16, 1, 1) and fixed.joint.positions.shape == (1, 16, 6, 6)
    with torch.no_grad():
        assert fixed.eval().latent(draw(size=(33, 90))).shape == (2, 12, 6, 6)
        assert free.eval().latent(draw(size=(33, 90))).shape == (2, 12, 3, 6)


@pytest.mark.parametrize("present", scenarios(NAMES))
def test_private_latents_are_those_of_the_modalities_present(present):
    model = make("cbc_slp", shared_width=6, private_width=3).eval()
    images = draw(present)
    with torch.no_grad():
        shared, private = model.start.parts(*model.latents(images))
        latent, mixed = model.latents(images)
        assert list(private) == list(present)
        assert shared.shape == (2, 6, 2, 3) and all(part.shape == (2, 3, 2, 3) for part in private.values())
        split: SplitLatent = model.start
        torch.testing.assert_close(shared, split.shared(latent))
        for name in present:
            torch.testing.assert_close(private[name], split.private[f"m_{name}"](mixed[name]))


@pytest.mark.parametrize("name", BOTH)
def test_one_modality_is_enough_to_be_built_and_trained(name):
    model = make(name, {"dsm": 1}).train()
    loss = model.losses(draw(["dsm"]), torch.randint(0, 5, (2, 32, 48)))["total"]
    loss.backward()
    assert torch.isfinite(loss) and model({"dsm": torch.zeros(1, 1, 20, 20)}).shape == (1, 5, 20, 20)


def test_scenarios_are_drawn_uniformly_and_never_empty():
    drawn = draw_scenarios(14000, 3, torch.Generator().manual_seed(0))
    codes = (drawn * torch.tensor([1, 2, 4])).sum(1)
    counts = torch.bincount(codes, minlength=8)
    assert counts[0] == 0
    assert ((counts[1:] - 2000).abs() < 150).all()


@pytest.mark.parametrize("name", BOTH)
def test_each_image_is_trained_in_the_scenario_that_it_draws(name):
    model = make(name).train()
    images, target = draw(batch=9), torch.randint(-1, 5, (9, 32, 48))
    member = draw_scenarios(9, 3, torch.Generator().manual_seed(1))
    assert len(member.unique(dim=0)) > 3
    rows = [
        model({key: images[key][row : row + 1] for key, given in zip(NAMES, member[row]) if given}) for row in range(9)
    ]
    wanted = F.cross_entropy(torch.cat(rows), target, ignore_index=-1)
    found = model.losses(images, target, generator=torch.Generator().manual_seed(1))["total"]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [{"draw_scenarios": False}, {}])
def test_without_a_draw_all_images_are_used(config):
    model = make(**config)
    model.train(bool(config))
    images, target = draw(), torch.randint(0, 5, (2, 32, 48))
    torch.testing.assert_close(model.losses(images, target)["total"], F.cross_entropy(model(images), target))


def test_what_an_image_did_not_draw_enters_no_statistic():
    model = registry.build("cbc", {**SMALL, "encoder": "resnet18"}, MODALITIES, 5).train()
    images, target = draw(size=(64, 64), batch=6), torch.randint(0, 5, (6, 64, 64))
    member = draw_scenarios(6, 3, torch.Generator().manual_seed(3))
    assert (member.sum(0) > 1).all() and not member.all(0).any()
    for column, name in enumerate(NAMES):
        images[name][~member[:, column]] = float("nan")
    losses = model.losses(images, target, generator=torch.Generator().manual_seed(3))
    losses["total"].backward()
    assert torch.isfinite(losses["total"])
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert all(torch.isfinite(item.grad).all() for item in model.parameters() if item.grad is not None)


def test_published_weights_reach_every_encoder_and_stay():
    encoder = build_encoder("resnet18", 3)
    weights = {encoder.published_name(key): torch.randn(value.shape) for key, value in encoder.state_dict().items()}
    model = registry.build("cbc", {**SMALL, "encoder": "resnet18"}, MODALITIES, 5)
    model.load_encoder(weights)
    for branch in model.branches.values():
        for key, value in branch.encoder.state_dict().items():
            assert "stems" in key or torch.equal(value, weights[encoder.published_name(key)].to(value.dtype))
    first = model.branches["m_dsm"].encoder.state_dict()["stems.shared.conv.weight"]
    torch.testing.assert_close(first, weights["stem.conv.weight"].sum(1, keepdim=True))
    inside = {id(item) for item in model.encoder_parameters()}
    named = {id(item) for key, item in model.named_parameters() if ".encoder." in key}
    assert inside == named


def test_an_encoder_whose_stem_gives_no_map_lends_its_first_one_twice():
    model = registry.build("cbc", {**SMALL, "encoder": "pvt_v2_b0"}, {"sar": 2}, 5).eval()
    first, second, *_ = model.branches["m_sar"].encoder.levels(torch.randn(1, 2, 32, 32))
    assert first is second
    with torch.no_grad():
        assert model({"sar": torch.randn(1, 2, 40, 33)}).shape == (1, 5, 40, 33)


def test_the_norm_over_the_tile_is_that_of_torch_and_takes_one_pixel():
    x = 5 + 3 * torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(InstanceNorm()(x), F.instance_norm(x), rtol=1e-5, atol=1e-5)
    assert (InstanceNorm()(x[..., :1, :1]) == 0).all()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"level_widths": [8, 8, 8, 8]}, "level_widths is [8, 8, 8, 8]"),
        ({"token_width": 10, "heads": 4}, "token_width is 10"),
        ({"token_grid": 0}, "token_grid is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"norm": "batch"}, "norm = 'batch'"),
        ({"shared_width": 0}, "shared_width is 0"),
    ],
)
def test_bad_configurations_are_refused(config, said):
    with pytest.raises(registry.LacunaError) as caught:
        make("cbc_slp", **config)
    assert caught.value.code == "bad-config" and said in caught.value.text


@pytest.mark.parametrize("name", BOTH)
def test_half_precision_stays_close(name):
    model = make(name).eval()
    images = draw()
    with torch.no_grad():
        full = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images)
    # The norms over a whole map blow up single values of a network that has learned nothing, so the mean counts.
    assert (full - half.float()).abs().mean() < 0.05 * full.std()


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_logits_are_as_stored(image, fill_model, as_stored, name, preset):
    config = {} if preset == "default" else {"token_grid": 8, "norm": "instance"}
    model = fill_model(make(name, **config))
    images = {key: image(seed, (1, MODALITIES[key], 20, 28)) for seed, key in enumerate(NAMES, start=51)}
    for present in [NAMES, ["sar", "dsm"], ["dsm"]]:
        as_stored("cbc", "_".join([name, preset, *present]), model, {key: images[key] for key in present})

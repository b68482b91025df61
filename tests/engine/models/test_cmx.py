# SPDX-License-Identifier: GPL-2.0-or-later
"""CMX: the published network number for number, one modality alone, more than two, its objective, stored logits."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry
from lacuna.engine.models.cmx import CrossFusion, Rectification
from lacuna.engine.models.layers import ChannelNorm

TINY = {"encoder_options": {"width": 8, "depth": 1}, "head_width": 16, "head_dropout": 0.0}
MODALITIES = {"optical": 4, "sar": 2, "dsm": 1}
PAIR = {"rgb": 3, "x": 3}
# L2 norms over the batch, at each stage: patch embedding, last block, stage norm, rectified; of both streams.
ANCHORS = [
    [(159.418, 157.207), (740.915, 646.678), (156.130, 157.594), (116.995, 118.005)],
    [(111.220, 110.565), (368.979, 953.379), (110.478, 112.167), (144.391, 145.663)],
    [(85.797, 91.372), (1543.17, 1412.45), (88.147, 87.644), (102.238, 104.029)],
    [(56.775, 57.383), (319.799, 459.120), (55.758, 55.646), (48.305, 48.277)],
]


def make(modalities=MODALITIES, **config):
    return registry.build("cmx", {**TINY, **config}, modalities, 5)


def draw(names=MODALITIES, size=(32, 48), batch=2):
    return {name: torch.randn(batch, MODALITIES[name], *size) for name in names}


def random_maps(keys, width=10, size=(5, 7)):
    return {key: torch.randn(2, width, *size) for key in keys}


def shuffled(module):
    """Set all parameters to random values of moderate size; those of two dimensions and more keep theirs."""
    for parameter in module.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    return module.eval()


@pytest.fixture
def published(reference):
    """The reference's arrays, and the network that its weights were imported into, in float64: see conftest."""
    arrays, state = reference("cmx_mit_b0_k5_64x96")
    config, ours = registry.architecture("cmx").import_published(state, {}, PAIR, 5)
    model = registry.build("cmx", config, PAIR, 5).eval()
    model.load_state_dict(ours)
    return arrays, model.double()


@pytest.fixture
def pair(image):
    return {"rgb": image(11, (2, 3, 64, 96)).double(), "x": image(12, (2, 3, 64, 96)).double()}


def compute(model, images):
    """Return what the reference holds, by name."""
    with torch.no_grad():
        found = {f"fused{level}": x for level, x in enumerate(model.fused(images, PAIR, (64, 96)), start=1)}
        return {**found, "logits": model(images)}


@pytest.mark.slow
def test_the_published_numbers_are_reproduced(published, pair, roundings_explain):
    arrays, judge = published
    single, images = copy.deepcopy(judge).float(), {name: image.float() for name, image in pair.items()}
    found = compute(single, images)
    roundings_explain(lambda: compute(judge, pair), {name: torch.from_numpy(arrays[name]) for name in found}, found)
    with torch.no_grad():
        assert set(found) == set(arrays) and torch.equal(single.latent(images), found["fused4"])


def test_every_step_has_the_published_size(published, pair):
    _, model = published
    seen = {}

    def keep(key):
        return lambda module, inputs, output: seen.update({key: (inputs[0], output)})

    for number, encoder in enumerate(model.encoders.values()):
        for level, stage in enumerate(encoder.stages):
            embedding = stage.downsample if level else next(iter(encoder.stems.values()))
            embedding.register_forward_hook(keep((level, number, "embedding")))
            stage.norm.register_forward_hook(keep((level, number, "norm")))
    for level, rectification in enumerate(model.rectifications):
        rectification.register_forward_hook(keep((level, "rectified")))
    with torch.no_grad():
        model(pair)
    for level, anchors in enumerate(ANCHORS):
        for number, wanted in enumerate(zip(*anchors)):
            before, after = seen[level, number, "norm"]
            rectified = list(seen[level, "rectified"][1].values())[number]
            steps = [seen[level, number, "embedding"][1], before, after, rectified]
            assert [step.norm().item() for step in steps] == pytest.approx(list(wanted), rel=1e-5)


def test_two_streams_are_rectified_as_published():
    module = shuffled(Rectification(10, "ab"))
    maps = random_maps("ab")
    a, b = maps.values()
    both = torch.cat([a, b], 1)
    with torch.no_grad():
        pooled = torch.cat([both.mean((2, 3)), both.amax((2, 3))], 1)
        first = torch.cat([layer[key].weight for layer in (module.mean, module.peak) for key in "ab"], 1)
        hidden = F.relu(F.linear(pooled, first, module.channel_bias))
        channel = [torch.sigmoid(module.channel[key](hidden))[..., None, None] for key in "ab"]
        look = torch.cat([module.look[key].weight for key in "ab"], 1)
        seen = F.relu(F.conv2d(both, look, module.place_bias))
        place = [torch.sigmoid(module.place[key](seen)) for key in "ab"]
        found = module(maps)
        torch.testing.assert_close(found["a"], a + 0.5 * channel[1] * b + 0.5 * place[1] * b)
        torch.testing.assert_close(found["b"], b + 0.5 * channel[0] * a + 0.5 * place[0] * a)


def plain_context(module, key, query):
    """Return the context of a stream, its sums written head by head."""
    keys, values = (half.unflatten(-1, (2, -1)) for half in module.kv[key](query).chunk(2, -1))
    heads = [keys[:, :, head].transpose(1, 2) @ values[:, :, head] / 5**0.5 for head in range(2)]
    return [scores.softmax(1) for scores in heads]


def test_two_streams_are_fused_as_published():
    module = shuffled(CrossFusion(10, 2, "ab", ChannelNorm, None))
    maps = random_maps("ab")
    with torch.no_grad():
        tokens = {key: x.flatten(2).transpose(1, 2) for key, x in maps.items()}
        halves = {key: F.relu(module.project[key](x)).chunk(2, -1) for key, x in tokens.items()}
        mixed = []
        for key, other in ("ab", "ba"):
            kept, query = halves[key]
            context = plain_context(module, other, halves[other][1])
            crossed = torch.cat([query[..., :5] @ context[0], query[..., 5:] @ context[1]], -1)
            end = torch.cat([module.keep[key].weight, module.take[key].weight], 1)
            ended = F.linear(torch.cat([kept, crossed], -1), end, module.keep[key].bias)
            mixed.append(module.norm[key](tokens[key] + ended).transpose(1, 2).unflatten(-1, (5, 7)))
        both = torch.cat(mixed, 1)
        embedded = F.conv2d(both, torch.cat([module.embed[key].weight for key in "ab"], 1), module.embed_bias)
        embedded = module.inner_norm(module.pointwise(F.relu(module.depthwise(embedded))))
        residual = F.conv2d(both, torch.cat([module.residual[key].weight for key in "ab"], 1))
        torch.testing.assert_close(module(maps), module.outer_norm(residual + embedded), rtol=1e-4, atol=1e-5)


def test_alone_a_stream_is_not_rectified_and_meets_no_context():
    rectify, fuse = Rectification(10, "ab"), shuffled(CrossFusion(10, 2, "ab", ChannelNorm, None))
    maps = random_maps("b")
    called = []
    for name in ("kv", "take"):
        getattr(fuse, name)["b"].register_forward_hook(lambda *_, name=name: called.append(name))
    with torch.no_grad():
        assert torch.equal(rectify(maps)["b"], maps["b"])
        found = fuse(maps)
        tokens = maps["b"].flatten(2).transpose(1, 2)
        kept = F.relu(fuse.project["b"](tokens)).chunk(2, -1)[0]
        x = fuse.norm["b"](tokens + fuse.keep["b"](kept)).transpose(1, 2).unflatten(-1, (5, 7))
        embedded = 2 * fuse.embed["b"](x) + fuse.embed_bias[:, None, None]
        embedded = fuse.inner_norm(fuse.pointwise(F.relu(fuse.depthwise(embedded))))
        torch.testing.assert_close(found, fuse.outer_norm(2 * fuse.residual["b"](x) + embedded))
    assert not called


def twins(module):
    """Give all streams of a module the weights of the first."""
    with torch.no_grad():
        for layers in module.children():
            if isinstance(layers, torch.nn.ModuleDict):
                for layer in layers.values():
                    layer.load_state_dict(layers["a"].state_dict())
    return module


@pytest.mark.parametrize("keys", ["abc", "abcd"])
def test_equal_streams_do_the_same_however_many_they_are(keys):
    rectify = twins(shuffled(Rectification(10, keys)))
    fuse = twins(shuffled(CrossFusion(10, 2, keys, ChannelNorm, None)))
    x = torch.randn(2, 10, 5, 7)
    with torch.no_grad():
        two, many = (rectify(dict.fromkeys(chosen, x)) for chosen in ("ab", keys))
        for key in keys:
            torch.testing.assert_close(many[key], two["a"])
        torch.testing.assert_close(fuse(many), fuse(two), rtol=1e-4, atol=1e-5)


def test_of_three_streams_each_receives_the_mean_of_the_others():
    rectify, fuse = shuffled(Rectification(10, "abc")), shuffled(CrossFusion(10, 2, "abc", ChannelNorm, None))
    maps = random_maps("abc")
    with torch.no_grad():
        sent, rectified = rectify.send(maps), rectify(maps)
        torch.testing.assert_close(rectified["a"], maps["a"] + (sent["b"] + sent["c"]) / 2)
        halves = {key: F.relu(fuse.project[key](x.flatten(2).transpose(1, 2))).chunk(2, -1) for key, x in maps.items()}
        of_b, of_c = (plain_context(fuse, key, halves[key][1]) for key in "bc")
        query = halves["a"][1]
        crossed = [query[..., 5 * h : 5 * h + 5] @ ((of_b[h] + of_c[h]) / 2) for h in range(2)]
        tokens = maps["a"].flatten(2).transpose(1, 2)
        wanted = tokens + fuse.keep["a"](halves["a"][0]) + fuse.take["a"](torch.cat(crossed, -1))
        torch.testing.assert_close(fuse.exchange(maps)["a"], fuse.norm["a"](wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [["optical", "sar", "dsm"], ["dsm", "optical"]])
def test_the_order_of_the_modalities_does_not_matter(names, fill_model):
    model = fill_model(make())
    turned = make(dict(reversed(MODALITIES.items()))).eval()
    turned.load_state_dict(model.state_dict())
    images = draw(names)
    with torch.no_grad():
        torch.testing.assert_close(turned(images), model(images), rtol=1e-4, atol=2e-5)


def test_what_is_present_changes_what_comes_out(fill_model):
    model = fill_model(make())
    images = draw()
    with torch.no_grad():
        found = [model({name: images[name] for name in names}) for names in (MODALITIES, ["optical", "dsm"], ["dsm"])]
        changed = model({**images, "sar": images["sar"] + 1})
    assert (found[0] - found[1]).abs().max() > 0.01 and (found[1] - found[2]).abs().max() > 0.01
    assert (found[0] - changed).abs().max() > 0.001


def test_contexts_are_of_one_hardness_in_tiles_of_any_size():
    free, plain = (shuffled(CrossFusion(10, 2, "a", ChannelNorm, positions)) for positions in (35.0, None))
    plain.load_state_dict(free.state_dict())
    tokens = torch.randn(1, 35, 10)
    with torch.no_grad():
        torch.testing.assert_close(free.context("a", tokens), plain.context("a", tokens))
        torch.testing.assert_close(free.context("a", tokens.repeat(1, 9, 1)), free.context("a", tokens))
        assert (plain.context("a", tokens.repeat(1, 9, 1)) - plain.context("a", tokens)).abs().max() > 0.01


def test_without_padding_maps_are_stretched_as_published(fill_model):
    config = {"encoder": "mit_b0", "encoder_options": {}}
    padded, bare = fill_model(make(**config)), make(**config, pad=False).eval()
    bare.load_state_dict(padded.state_dict())
    images = draw(["optical", "dsm"], (64, 32), 1)
    odd = {name: image[..., :43, :] for name, image in images.items()}
    with torch.no_grad():
        torch.testing.assert_close(bare(images), padded(images))
        fused = bare.fused(odd, ["optical", "dsm"], (43, 32))
        assert [x.shape[-2] for x in fused] == [11, 6, 3, 2]
        parts = [
            F.interpolate(project(x), size=(11, 8), mode="bilinear", align_corners=False)
            for x, project in zip(fused, bare.head.project)
        ]
        merged = F.relu(bare.head.norm(bare.head.merge(torch.cat(parts, 1))))
        wanted = F.interpolate(bare.head.classify(merged), size=(43, 32), mode="bilinear", align_corners=False)
        torch.testing.assert_close(bare(odd), wanted, rtol=1e-4, atol=1e-5)


def test_a_step_draws_every_scenario_evenly():
    names, generator = list(MODALITIES), torch.Generator().manual_seed(0)
    model = make().train()
    drawn = Counter(tuple(model._scenario(names, generator)) for _ in range(3500))
    assert len(drawn) == 7 and all(400 < count < 600 for count in drawn.values())
    assert model._scenario(["sar"], generator) == ["sar"]
    assert model.eval()._scenario(names, generator) == names
    assert make(scenarios="full").train()._scenario(names, generator) == names


def test_the_objective_is_the_cross_entropy_of_the_scenario():
    model = make()
    images, target = draw(), torch.randint(0, 5, (2, 32, 48))
    target[:, :4] = -1
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    with torch.no_grad():
        for seed in range(4):
            names = model.train()._scenario(list(MODALITIES), torch.Generator().manual_seed(seed))
            loss = model.losses(images, target, generator=torch.Generator().manual_seed(seed), class_weights=weights)[
                "total"
            ]
            logits = model.eval()({name: images[name] for name in names})
            torch.testing.assert_close(loss, F.cross_entropy(logits, target, weights, ignore_index=-1))


def test_the_encoder_of_each_stream_is_its_own():
    model = make()
    weights = {
        model.encoders["m_dsm"].published_name(name): torch.randn_like(value)
        for name, value in model.encoders["m_dsm"].state_dict().items()
    }
    model.load_encoder(weights)
    assert set(map(id, model.encoder_parameters())) == set(map(id, model.encoders.parameters()))
    for encoder in model.encoders.values():
        assert torch.equal(encoder.layers[0][0].conv1.weight, weights["layers.0.0.conv1.weight"])
    assert model.encoders["m_dsm"].layers[0] is not model.encoders["m_sar"].layers[0]


def test_the_preset_of_the_paper():
    kind = registry.architecture("cmx")
    settings = kind.settings("paper")
    assert (settings.lr, settings.weight_decay, settings.poly_power, settings.betas) == (6e-5, 0.01, 0.9, (0.9, 0.999))
    assert (settings.epochs, settings.warmup_epochs, settings.batch, settings.crop) == (500, 10, 8, 480)
    with torch.device("meta"):
        model = registry.build("cmx", kind.preset_config("paper"), {"rgb": 3, "depth": 1}, 40)
    assert model.head.norm.eps == 1e-3 and model.fusions[0].inner_norm.eps == 1e-5
    rates = [
        [[block.drop_path.rate for block in stage.blocks] for stage in encoder.stages]
        for encoder in model.encoders.values()
    ]
    assert rates[0][1] == pytest.approx([0.1 * 3 / 15] * 4) and rates[1][1] == pytest.approx([0.1 * 4 / 15] * 4)
    assert rates[0][2] == rates[1][2] == pytest.approx([0.1 * index / 15 for index in range(7, 13)])


# Millions of parameters for 40 classes, as comparisons with CMX list them.
@pytest.mark.parametrize(("encoder", "millions"), [("mit_b2", 66.6), ("mit_b4", 139.9), ("mit_b5", 181.1)])
def test_the_network_has_the_published_size(encoder, millions):
    config = {**registry.architecture("cmx").preset_config("paper"), "encoder": encoder}
    with torch.device("meta"):
        model = registry.build("cmx", config, PAIR, 40)
    assert sum(item.numel() for item in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"head_width": 0}, "head_width is 0"),
        ({"head_dropout": 1.0}, "head_dropout is 1.0"),
        ({"head_eps": 0.0}, "head_eps is 0.0"),
        ({"context_crop": 0}, "context_crop is 0"),
        ({"norm": "layer"}, "norm = 'layer'"),
        ({"scenarios": "none"}, "scenarios = 'none'"),
    ],
)
def test_bad_configurations_are_refused(config, said):
    with pytest.raises(LacunaError) as caught:
        make(**config)
    assert caught.value.code == "bad-config" and said in caught.value.text and caught.value.hint


def test_the_published_drop_path_needs_an_encoder_that_has_it():
    with pytest.raises(LacunaError) as caught:
        make(published_drop_path=True)
    assert caught.value.code == "bad-config" and "published_drop_path" in caught.value.text


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
        as_stored("cmx", "_".join(names), model, {name: images[name] for name in names})

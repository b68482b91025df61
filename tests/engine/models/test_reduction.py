# SPDX-License-Identifier: GPL-2.0-or-later
"""Coarse modalities reduced before their encoder: exact means, nothing shifted, the same in every tile and method.

All networks are those of `test_architectures`. In float64, where kernels of different sizes agree.
"""

from __future__ import annotations

import pytest
import torch

from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry
from lacuna.engine.models.detail import Detail, DetailConfig
from lacuna.engine.models.grids import crop_cells, to_reference
from lacuna.engine.models.joined import join
from lacuna.engine.models.reduction import check_factors, reduce_image

from .test_architectures import CASES, CLASSES, MODALITIES, draw, make

FACTORS = {"dsm": 4, "sar": 2}
SAME = {"rtol": 1e-9, "atol": 1e-9}
# One of each architecture and each kind of encoder; norms over the sample or the batch would mix what is compared.
CHOSEN = [case for case in CASES if case not in ("sgma-stride-1", "dis2-sample")]


@pytest.fixture(params=CHOSEN)
def case(request):
    return request.param


def reduced(case, factors=FACTORS, **config):
    return make(case, reduce=dict(factors), **config).double().eval()


def double(names=tuple(MODALITIES), size=(64, 64), batch=1):
    return draw(names, size, batch, torch.float64)


def shuffled(image, factor):
    """Return `image` with the pixels of each block in another order."""
    *rest, height, width = image.shape
    blocks = image.reshape(*rest, height // factor, factor, width // factor, factor).transpose(-3, -2)
    order = torch.randperm(factor * factor)
    mixed = blocks.flatten(-2)[..., order].unflatten(-1, (factor, factor))
    return mixed.transpose(-3, -2).reshape(image.shape)


def test_blocks_are_averaged():
    image = torch.arange(2 * 3 * 8 * 12, dtype=torch.float64).reshape(2, 3, 8, 12)
    found, extent = reduce_image(image, 4, (8, 12))
    wanted = torch.stack([image[..., r : r + 4, c : c + 4].mean((2, 3)) for r in (0, 4) for c in (0, 4, 8)], -1)
    torch.testing.assert_close(found, wanted.unflatten(-1, (2, 3)), **SAME)
    assert extent == (2, 3)


def test_a_hole_is_filled_by_the_mean_as_before():
    """A hole is 0, the card's mean: a block that is one hole is 0, and one with some holes comes nearer to it."""
    image = torch.full((1, 1, 8, 8), 3.0, dtype=torch.float64)
    image[..., :4, :4] = 0.0
    image[..., :2, 4:] = 0.0
    found, _ = reduce_image(image, 4, (8, 8))
    assert found[0, 0].tolist() == [[0.0, 1.5], [3.0, 3.0]]


def test_an_image_that_ends_within_a_block_is_not_stretched():
    """Cells lie over their pixels: a ramp is the same ramp on the reference grid again."""
    width, factor = 50, 8
    ramp = (torch.arange(width, dtype=torch.float64) + 0.5).expand(1, 1, width, width)
    found, extent = reduce_image(ramp, factor, (width, width))
    assert found.shape[-2:] == (7, 7) and extent == (6.25, 6.25)
    again = to_reference(crop_cells(found, extent, 1), extent, (width, width), 1)
    torch.testing.assert_close(again[..., 4:44], ramp[..., 4:44], **SAME)


@pytest.mark.parametrize("own", [(8, 8), (16, 16), (32, 32)])
def test_an_image_on_a_grid_of_its_own_comes_to_the_reduced_grid(own):
    image = torch.rand(1, 2, *own, dtype=torch.float64)
    found, extent = reduce_image(image, 4, (32, 32))
    assert found.shape[-2:] == (8, 8) and extent == (8, 8)
    if own == (8, 8):
        assert found is image


def test_the_encoder_sees_what_it_is_to_see(case):
    model = reduced(case)
    assert model.factors == FACTORS and model.coarsest == 4
    plain = make(case)
    assert model.output_stride == 4 * plain.output_stride and model.margin == 4 * plain.margin
    image, extent = model.encoder_input(torch.rand(1, 1, 64, 64), "dsm", (64, 64))
    assert image.shape[-2:] == (16, 16) and extent == (16, 16)
    untouched = torch.rand(1, 4, 64, 64)
    assert model.encoder_input(untouched, "optical", (64, 64))[0] is untouched


def test_only_the_mean_of_a_block_counts(case):
    """In the logits, the latent and the losses; without the setting the order of the pixels does count."""
    images, target = double(), torch.randint(0, CLASSES, (1, 64, 64))
    mixed = {**images, **{name: shuffled(images[name], factor) for name, factor in FACTORS.items()}}
    model = reduced(case)

    def results(network, given):
        total = network.losses(given, target, generator=torch.Generator().manual_seed(0))["total"]
        return network(given), network.latent(given), total

    with torch.no_grad():
        for first, second in zip(results(model, images), results(model, mixed)):
            torch.testing.assert_close(first, second, **SAME)
        plain = make(case).double().eval()
        assert (plain(images) - plain(mixed)).abs().max() > 1e-6


def test_an_image_may_come_on_its_own_grid(case):
    """The same logits from the pixels themselves as from what makes of each a block of pixels."""
    model, images = reduced(case), double()
    own = {name: image[..., ::4, ::4] if name == "dsm" else image for name, image in images.items()}
    blocks = {**own, "dsm": own["dsm"].repeat_interleave(4, -1).repeat_interleave(4, -2)}
    with torch.no_grad():
        torch.testing.assert_close(model(own), model(blocks), **SAME)


@pytest.mark.parametrize("names", [["dsm"], ["sar", "dsm"], ["optical", "dsm"]])
def test_every_scenario_and_size_gives_logits_on_the_reference_grid(case, names):
    model = reduced(case)
    for size in ((64, 64), (33, 47), (1, 5)):
        with torch.no_grad():
            logits = model(double(names, size))
        assert logits.shape == (1, CLASSES, *size) and torch.isfinite(logits).all()


@pytest.mark.slow
def test_gradients_reach_the_encoders_of_reduced_modalities(case):
    model = reduced(case).train()
    images = {name: image.requires_grad_() for name, image in double(batch=2).items()}
    model.losses(images, torch.randint(0, CLASSES, (2, 64, 64)), available=["sar", "dsm"])["total"].backward()
    assert all(images[name].grad.abs().sum() > 0 for name in ("sar", "dsm"))


@pytest.mark.parametrize("name", ["dsm", "optical"])
def test_features_do_not_depend_on_the_tile(name):
    """Of two tiles that begin at multiples of the stride, what both see well is the same, at the three finer scales."""
    model = reduced("sgma-stride-1", {"dsm": 4})
    assert model.output_stride == 32
    image = double([name], (320, 320))[name]
    with torch.no_grad():
        whole = model.tokens({name: image}, [name], (320, 320))
        tile = model.tokens({name: image[..., 32:288, 64:]}, [name], (256, 256))
    for level, pair in enumerate(list(zip(whole, tile))[:3]):
        stride = 2**level
        large, small = (rows[0, 0].T.unflatten(-1, (-1, side // stride)) for rows, side in zip(pair, (320, 256)))
        edge = 96 // stride
        wanted = large[:, 32 // stride + edge : 288 // stride - edge, 64 // stride + edge : 320 // stride - edge]
        torch.testing.assert_close(small[:, edge:-edge, edge:-edge], wanted, **SAME)


def test_the_largest_blocks_fit_between_the_origins_of_tiles(case):
    factors = {"dsm": 8, "sar": 2}
    model = make(case, reduce=factors)
    assert all(model.output_stride % factor == 0 for factor in factors.values())


@pytest.mark.parametrize("case", ["cmx-small", "cmx-mit"])
def test_a_stream_of_cmx_that_is_alone_is_its_encoder(case):
    """Nothing is received, so nothing is added: the second stage sees the first stage's own map, not one enlarged."""
    model, images = reduced(case, {"dsm": 4}), double(["dsm"], (128, 128))
    encoder, seen = model.encoders["m_dsm"], []
    encoder.stage, stage = lambda index, x, domain: seen.append(x) or stage(index, x, domain), encoder.stage
    with torch.no_grad():
        model(images)
        x = encoder.enter(model.prepare(images["dsm"], "dsm", (128, 128)), "dsm")
        for index, given in enumerate(seen[:4]):
            torch.testing.assert_close(given, x, **SAME)
            x = stage(index, x, "dsm")


def test_a_configuration_rebuilds_it(case):
    model = reduced(case)
    twin = registry.build(model.architecture, model.config(), model.modalities, model.classes)
    assert twin.factors == FACTORS and twin.output_stride == model.output_stride


def test_a_configuration_from_before_is_as_it_was(case):
    """Without the setting, and with factors of 1, a network has the same weights and gives the same bits."""
    config = {key: value for key, value in make(case).config().items() if key != "reduce"}
    logits = []
    for extra in ({}, {"reduce": {}}, {"reduce": {"dsm": 1}}):
        torch.manual_seed(0)
        model = registry.build(CASES[case][0], {**config, **extra}, MODALITIES, CLASSES).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            logits.append(model(draw(["optical", "dsm"], batch=1)))
    assert all(torch.equal(item, logits[0]) for item in logits)


@pytest.mark.parametrize(
    ("factors", "found"),
    [
        ({"lidar": 2}, "'lidar'"),
        ({"dsm": 3}, "dsm 3 times"),
        ({"dsm": 0}, "dsm 0 times"),
        ({"dsm": 128}, "dsm 128 times"),
        ({"dsm": 2.0}, "dsm 2.0 times"),
        ({"dsm": True}, "dsm True times"),
    ],
)
def test_wrong_factors_are_refused(factors, found):
    with pytest.raises(LacunaError) as caught:
        make("sgma-small", reduce=factors)
    assert caught.value.code == "bad-config" and found in caught.value.text and caught.value.hint


def test_factors_of_one_are_left_out():
    assert check_factors({"dsm": 1, "sar": 8}, MODALITIES, "it") == {"sar": 8}


def test_what_is_joined_has_the_grids_of_its_network():
    network = reduced("sgma-small").float()
    detail = Detail(MODALITIES, CLASSES, DetailConfig())
    joined = join(network, detail, {})
    assert (joined.factors, joined.coarsest, joined.output_stride) == (FACTORS, 4, network.output_stride)

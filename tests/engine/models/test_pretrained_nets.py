# SPDX-License-Identifier: GPL-2.0-or-later
"""Pretrained networks compute what their published implementations compute, with their published weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lacuna.engine.models.encoders.galileo_net import GalileoNet
from lacuna.engine.models.encoders.galileo_tokens import SPACE, SPACE_TIME, STATIC, TIME, GalileoInputs
from lacuna.engine.models.encoders.lite0_net import Lite0Net

KINDS = (SPACE_TIME, SPACE, TIME, STATIC)
S2 = ["S2_RGB", "S2_Red_Edge", "S2_NIR_10m", "S2_NIR_20m", "S2_SWIR", "NDVI"]
CASES = {
    "all": [key for kind in KINDS for key in kind],
    "s2s1dem": ["S1", *S2, "SRTM"],
    "s2": S2,
    "s1": ["S1"],
    "dem": ["SRTM"],
}


def galileo_inputs(seed, batch, size, months, present):
    """Return the inputs that the numbers in galileo_nano.npz were computed from."""
    draw, count = np.random.RandomState(seed), len(months[0])
    shapes = [(batch, size, size, count, 13), (batch, size, size, 16), (batch, count, 6), (batch, 18)]
    values = [torch.from_numpy(draw.uniform(0, 1, shape).astype(np.float32)) for shape in shapes]
    masks = [
        torch.tensor([float(key not in present) for key in kind]).expand(*shape[:-1], -1).clone()
        for kind, shape in zip(KINDS, shapes)
    ]
    return GalileoInputs(*values, *masks, torch.tensor(months))


def close(found, wanted, part=1e-5, least=0.0):
    """Check that no number differs by more than `part` of the largest (of at least `least`)."""
    assert found.shape == wanted.shape
    assert np.abs(found.numpy() - wanted).max() <= part * max(np.abs(wanted).max(), least)


@pytest.fixture(scope="module")
def galileo(published_numbers, published_weights):
    net = GalileoNet().eval()
    net.load_state_dict(published_weights("galileo_nano"))
    return net, published_numbers("galileo_nano")


@pytest.mark.parametrize("patch", [4, 8])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_galileo_gives_the_published_tokens(galileo, case, patch):
    net, wanted = galileo
    found = net(galileo_inputs(601, 2, 32, [[5], [11]], CASES[case]), patch)
    close(found.by_patch(), wanted[f"{case}_p{patch}_patch"], least=1)
    close(found.mean(), wanted[f"{case}_p{patch}_mean"], least=1)
    if case in ("all", "s1"):
        tokens = found.tokens
        close(tokens[0][:, ::3, ::3, :, :, ::4], wanted[f"{case}_p{patch}_st_tokens"], least=1)
        close(tokens[1][:, ::3, ::3, :, ::4], wanted[f"{case}_p{patch}_sp_tokens"], least=1)
        close(tokens[2][..., ::4], wanted[f"{case}_p{patch}_time_tokens"], least=1)
        close(tokens[3][..., ::4], wanted[f"{case}_p{patch}_static_tokens"], least=1)


@torch.no_grad()
def test_galileo_takes_other_sizes_and_pixels(galileo):
    net, wanted = galileo
    found = net(galileo_inputs(602, 1, 20, [[0]], CASES["s2s1dem"]), 4, pixel=20.0)
    close(found.by_patch(), wanted["other_size_p4_patch"], least=1)
    close(found.mean(), wanted["other_size_p4_mean"], least=1)


@torch.no_grad()
def test_galileo_leaves_out_what_is_masked_in_some_places(galileo):
    net, wanted = galileo
    inputs = galileo_inputs(603, 2, 20, [[3, 4], [10, 11]], CASES["s2s1dem"])
    inputs.space_time_mask[0, :, 12:, :, 0] = 1
    inputs.space_time_mask[1, :, :, 1, 1:] = 1
    inputs.space_mask[1, 12:, :, 0] = 1
    found = net(inputs, 4)
    close(found.by_patch(), wanted["partial_p4_patch"], least=1)
    close(found.mean(), wanted["partial_p4_mean"], least=1)


@torch.no_grad()
def test_galileo_goes_the_published_way(galileo):
    net, wanted = galileo
    inputs = galileo_inputs(601, 2, 32, [[5], [11]], CASES["all"])
    embedded, added = net.embed(inputs, 4), net.encodings(inputs, 4, 10.0)
    for kind, x, code in zip(("st", "sp"), embedded, added):
        close(x[:1, ::3, ::3][..., ::4], wanted[f"stage_embed_{kind}"], least=1)
        close(code.expand(x.shape)[:1, ::3, ::3], wanted[f"stage_encoding_{kind}"], least=1)
    for kind, x, code in zip(("time", "static"), embedded[2:], added[2:]):
        close(x[:1][..., ::4], wanted[f"stage_embed_{kind}"], least=1)
        close(code.expand(x.shape)[:1], wanted[f"stage_encoding_{kind}"], least=1)
    rows = torch.cat([(x + code).flatten(1, -2) for x, code in zip(embedded, added)], 1)
    for index, x in enumerate(net.after_blocks(rows)):
        close(x[:1, ::16, ::4], wanted[f"stage_block{index}"], least=1)


@pytest.mark.parametrize("patch", [2, 4, 5])
@torch.no_grad()
def test_galileo_resizes_its_kernels_as_published(galileo, patch):
    net, wanted = galileo
    close(net.space_time_embed["S1"].kernel(patch)[::8], wanted[f"stage_kernel_S1_p{patch}"], least=1)


def test_the_fixed_tables_of_galileo_are_known_without_its_weights(galileo):
    new = GalileoNet()
    torch.testing.assert_close(new.pos_embed, galileo[0].pos_embed, rtol=0, atol=2e-6)
    torch.testing.assert_close(new.month_embed.weight, galileo[0].month_embed.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("case", "seed", "shape"), [("a", 41, (2, 3, 64, 96)), ("b", 42, (1, 3, 75, 53))])
@torch.no_grad()
def test_lite0_gives_the_published_maps(published_numbers, published_weights, image, case, seed, shape):
    wanted = published_numbers("efficientnet_lite0")
    net = Lite0Net()
    net.load_state_dict(published_weights("efficientnet_lite0"))
    net.train()
    given = image(seed, shape)
    maps = net(given)
    close(net.stem(given)[:, ::4, ::3, ::3], wanted[f"{case}_stem"])
    close(maps[0][:, ::4, ::3, ::3], wanted[f"{case}_stride2"])
    close(maps[1][:, ::4, ::3, ::3], wanted[f"{case}_stride4"])
    close(maps[2][:, ::2], wanted[f"{case}_stride8"])
    # From here on some weights are stored as float16; all that is above was not touched by that.
    for features, stride in zip(maps[3:], (16, 32)):
        close(features, wanted[f"{case}_stride{stride}"], part=2e-3)

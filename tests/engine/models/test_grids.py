# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes inside a network: a ramp stays where it is, through padding, strides and grids of other pixel sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lacuna.engine.models.grids import crop_cells, enlarge, pad_to_multiple, resample_features, to_reference


def ramp(pixels, stride, extent):
    """Return along one axis the position, in units of the extent, of the centres of the cells of `stride`."""
    cells = torch.arange(-(-pixels // stride), dtype=torch.float64)
    return (cells + 0.5) * stride / pixels * extent


@given(st.integers(1, 80), st.integers(1, 80), st.sampled_from([1, 2, 8, 32]))
@settings(max_examples=50, deadline=None)
def test_padding_repeats_the_border_and_keeps_the_image(height, width, multiple):
    image = torch.rand(1, 2, height, width)
    padded = pad_to_multiple(image, multiple)
    assert padded.shape[-2] % multiple == 0 and padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple and padded.shape[-1] - width < multiple
    assert torch.equal(padded[..., :height, :width], image)
    assert (padded[..., height:, 0] == image[..., -1:, 0]).all()


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 2, 4, 16]))
@settings(max_examples=100, deadline=None)
def test_a_ramp_stays_in_place_between_grids(own, reference, stride):
    features = ramp(own, stride, 1.0).expand(1, 1, 3, -1)
    moved = to_reference(features, (3 * stride, own), (3 * stride, reference), stride)[0, 0, 0]
    wanted = ramp(reference, stride, 1.0)
    inner = (wanted >= features.min()) & (wanted <= features.max())
    if own > reference:  # a triangle wider than a cell is cut off near the border
        reach = stride / reference
        inner &= (wanted >= reach) & (wanted <= features.max() - reach)
    assert moved.shape == wanted.shape
    tolerance = 1e-9 if own <= reference else 0.2 * stride / own
    torch.testing.assert_close(moved[inner], wanted[inner], atol=tolerance, rtol=0)


def test_constants_stay_and_equal_grids_are_not_touched():
    features = torch.full((2, 3, 5, 7), 2.5)
    assert to_reference(features, (20, 28), (20, 28), 4) is features
    torch.testing.assert_close(to_reference(features, (20, 28), (50, 9), 4), torch.full((2, 3, 13, 3), 2.5))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_a_fixed_number_of_cells_lies_over_the_same_extent(given_cells, count, pixels):
    position = ramp(given_cells, 1, 1.0).expand(1, 1, given_cells, -1)
    ratio = given_cells / count
    moved = resample_features(position, (pixels, count), (given_cells / pixels, ratio))[0, 0]
    wanted = ramp(count, 1, 1.0)
    reach = 0.5 / given_cells + (1 / count if ratio > 1 else 0)
    inner = (wanted >= reach) & (wanted <= 1 - reach)
    tolerance = 1e-9 if ratio <= 1 else 0.2 / given_cells
    assert moved.shape == (pixels, count)
    torch.testing.assert_close(moved[0, inner], wanted[inner], atol=tolerance, rtol=0)
    assert resample_features(position, position.shape[-2:], (1.0, 1.0)) is position


def test_no_source_cell_is_skipped_where_the_reference_is_coarser():
    weights = to_reference(torch.eye(64)[None, None], (64, 64), (64, 8), 1)
    assert (weights[0, 0].sum(1) > 0).all()


@pytest.mark.parametrize("size", [33, 40, 61])
def test_enlarged_cells_lie_over_their_pixels(size):
    stride = 8
    count = -(-size // stride)
    cells = ramp(size, stride, size).expand(1, 1, count, count)
    pixels = enlarge(cells, stride, (size, size))[0, 0, 0]
    wanted = ramp(size, 1, size)
    inner = (wanted >= cells.min()) & (wanted <= cells.max())
    assert pixels.shape == (size,)
    torch.testing.assert_close(pixels[inner], wanted[inner])


def test_cells_that_cover_only_padding_are_dropped():
    assert crop_cells(torch.zeros(1, 1, 16, 16), (33, 64), 4).shape[-2:] == (9, 16)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Holes are filled from their edges, and what is known is left as it is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lacuna.engine.models.holes import fill_holes


def with_holes(known, value=None):
    """Return an image (1, 2, h, w) that is 0 where not `known`, elsewhere `value` or random numbers other than 0."""
    known = torch.as_tensor(known)
    image = torch.rand(1, 2, *known.shape) + 0.5 if value is None else torch.full((1, 2, *known.shape), value)
    return image * known


MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans())


@given(MASKS, st.integers(0, 12))
def test_known_pixels_stay_and_others_lie_between_them(known, distance):
    image = with_holes(known)
    filled = fill_holes(image, distance)
    inside = torch.as_tensor(known)
    assert torch.equal(filled[..., inside], image[..., inside])
    if known.any():
        lowest, highest = (bound(image[..., inside]) for bound in (torch.min, torch.max))
        made = filled[..., ~inside]
        made = made[made != 0]
        assert ((made >= lowest - 1e-6) & (made <= highest + 1e-6)).all()


@given(MASKS.filter(np.any))
def test_one_value_everywhere_leaves_no_trace_of_a_hole(known):
    torch.testing.assert_close(fill_holes(with_holes(known, 3.0), 12), torch.full((1, 2, *known.shape), 3.0))


@pytest.mark.parametrize("distance", [0, 1, 3])
def test_it_reaches_so_far_and_no_farther(distance):
    known = torch.zeros(11, 11, dtype=torch.bool)
    known[:, 0] = True
    filled = fill_holes(with_holes(known), distance)
    assert (filled != 0).all(1)[0].sum(1).tolist() == [1 + distance] * 11


def test_images_of_a_batch_are_filled_apart_and_one_without_data_stays():
    known = torch.zeros(5, 6, dtype=torch.bool)
    known[2, 2:4] = True
    image = with_holes(known)
    both = fill_holes(torch.cat([torch.zeros_like(image), image]), 9)
    assert torch.equal(both[:1], torch.zeros_like(image)) and torch.equal(both[1:], fill_holes(image, 9))


def test_a_channel_that_is_zero_is_no_hole():
    image = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4).clone()
    image[..., 0, 0] = torch.tensor([5.0, 5.0])
    assert torch.equal(fill_holes(image, 4), image)

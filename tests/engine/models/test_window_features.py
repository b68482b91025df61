# SPDX-License-Identifier: GPL-2.0-or-later
"""Features of pixels are means and deviations of windows, whatever the strips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lacuna.engine.models.window_features import (
    count_differences,
    count_features,
    strips_of_each,
    strips_of_features,
    with_differences,
)

WINDOWS = (3, 7, 15)


@pytest.fixture(scope="module")
def image():
    return torch.randn(3, 40, 52, generator=torch.Generator().manual_seed(0))


def test_strips_are_those_of_the_whole_image(image):
    whole = torch.cat(list(strips_of_features([image], WINDOWS)), 1)
    assert whole.shape == (count_features(3, WINDOWS), 40, 52)
    strips = list(strips_of_features([image], WINDOWS, 1))
    assert len(strips) == 40
    torch.testing.assert_close(torch.cat(strips, 1), whole)


def test_they_are_bands_means_and_deviations(image):
    found = torch.cat(list(strips_of_features([image], WINDOWS)), 1)[:, 20, 30].numpy()
    wanted = [image[:, 20, 30].numpy()]
    for side in WINDOWS:
        half = side // 2
        window = image[:, 20 - half : 21 + half, 30 - half : 31 + half].double().numpy().reshape(3, -1)
        wanted += [window.mean(1), window.std(1)]
    np.testing.assert_allclose(found, np.concatenate(wanted), atol=1e-5)


def test_differences_of_neighbouring_bands_follow(image):
    features = torch.cat(list(strips_of_features([image], WINDOWS)), 1).flatten(1)
    found = with_differences(features, WINDOWS)
    assert len(found) == count_differences(3, WINDOWS) == 21 + 4
    assert torch.equal(found[:21], features)
    means = torch.nn.functional.avg_pool2d(image[None].double(), 7, 1, 3)[0]
    for place, band in enumerate((0, 1)):
        torch.testing.assert_close(found[21 + place], (image[band + 1] - image[band]).flatten())
        wanted = (means[band + 1] - means[band]).float().flatten()
        torch.testing.assert_close(found[23 + place], wanted, atol=1e-5, rtol=0)


def test_a_single_band_has_no_differences():
    features = torch.randn(count_features(1, WINDOWS), 5)
    assert torch.equal(with_differences(features, WINDOWS), features)
    assert count_differences(1, WINDOWS) == len(features)


def test_each_image_may_have_windows_of_its_own(image):
    other = image[:1].flip(2)
    found = torch.cat(list(strips_of_each([image, other], [(3,), (7, 15)], 4000)), 1)
    first, second = (
        torch.cat(list(strips_of_features([item], sides)), 1) for item, sides in ((image, (3,)), (other, (7, 15)))
    )
    torch.testing.assert_close(found, torch.cat([first, second]))


def test_windows_may_leave_out_holes_and_what_lies_beyond(image):
    holed = image.clone()
    holed[:, 3:16, 30:44] = 0
    found = torch.cat(list(strips_of_each([holed], [(9,)], 4000, inside=True)), 1)
    for row, column in ((0, 0), (1, 33), (20, 51), (25, 25)):
        window = holed[:, max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5].flatten(1).double()
        window = window[:, (window != 0).any(0)]
        wanted = torch.cat([window.mean(1), window.std(1, unbiased=False)]).float()
        torch.testing.assert_close(found[3:, row, column], wanted, atol=1e-4, rtol=1e-4)
    assert torch.isfinite(found).all()
    assert (found[3:, 9, 36] == 0).all(), "a window of a hole alone is a hole"

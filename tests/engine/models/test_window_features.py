# SPDX-License-Identifier: GPL-2.0-or-later
"""Features of pixels are means and deviations of windows, whatever the strips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lacuna.engine.models.window_features import count_differences, count_features, strips_of_features, with_differences

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

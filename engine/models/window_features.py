# SPDX-License-Identifier: GPL-2.0-or-later
"""Features of single pixels: bands, and their means and deviations in windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .grids import to_reference

# Numbers that the features of a strip of pixels may take together: memory stays small however many bands there are.
NUMBERS = 2**24


def placed(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return an image (B, C, h, w) on the reference grid of `size`."""
    return to_reference(image, (image.shape[-2], image.shape[-1]), size, 1)


def strips_of_features(images: Sequence[Tensor], windows: Sequence[int], numbers: int = NUMBERS) -> Iterator[Tensor]:
    """Yield the features (F, h, W) of strips of images (C, H, W) of one size, from top to bottom; memory is bounded.

    They are for one image after the other its bands, then for each side of `windows` their means and their standard
    deviations. What lies beyond an image counts as 0. The features of a strip are about so many `numbers` together.
    """
    yield from strips_of_each(images, [windows] * len(images), numbers)


def strips_of_each(
    images: Sequence[Tensor], windows: Sequence[Sequence[int]], numbers: int = NUMBERS, inside: bool = False
) -> Iterator[Tensor]:
    """Yield strips of features as `strips_of_features`, of images that each have windows of their own.

    Args:
        images: (C, H, W), of one size.
        windows: sides of the windows of each image, odd; none: its bands alone.
        numbers: about so many a strip.
        inside: means and deviations are over the pixels of a window that are not 0 in all bands, as holes are and what
            lies beyond an image.
    """
    edges = [max(sides, default=1) // 2 for sides in windows]
    padded = [F.pad(image[None], (edge,) * 4)[0] for image, edge in zip(images, edges)]
    held = [(image != 0).any(0, keepdim=True).to(image) if inside else None for image in padded]
    height, width = images[0].shape[1:]
    wide = sum(count_features(len(image), sides) for image, sides in zip(images, windows))
    rows = max(1, numbers // (wide * width))
    for first in range(0, height, rows):
        below = min(first + rows, height)
        yield torch.cat(
            [
                window_features(image[:, first : below + 2 * edge], sides, _rows(mask, first, below + 2 * edge))
                for image, mask, sides, edge in zip(padded, held, windows, edges)
            ]
        )


def window_features(padded: Tensor, windows: Sequence[int], held: Tensor | None = None) -> Tensor:
    """Return the features (F, h, w) of an image (C, h + 2e, w + 2e); e is half the largest window, cut off here.

    Args:
        padded: the image.
        windows: sides of the windows.
        held: (1, h + 2e, w + 2e), 1 for the pixels that count in windows, 0 for others, where the image is 0; None: all
            count.
    """
    edge = max(windows, default=1) // 2
    height, width = padded.shape[1] - 2 * edge, padded.shape[2] - 2 * edge
    found = [padded[:, edge : edge + height, edge : edge + width]]
    squares = padded.square()
    for side in windows:
        skip = edge - side // 2
        inner = slice(skip, skip + height + side - 1), slice(skip, skip + width + side - 1)
        mean, square = (_box_mean(x[(slice(None), *inner)], side) for x in (padded, squares))
        if held is not None:
            share = _box_mean(held[(slice(None), *inner)], side).clamp(min=0.5 / side**2)
            mean, square = mean / share, square / share
        found += [mean, (square - mean.square()).clamp(min=0).sqrt()]
    return torch.cat(found)


def _rows(mask: Tensor | None, first: int, below: int) -> Tensor | None:
    return None if mask is None else mask[:, first:below]


def _box_mean(image: Tensor, side: int) -> Tensor:
    """Return the means (C, h, w) of windows of an image (C, h + side - 1, w + side - 1): by rows, then by columns."""
    return F.avg_pool2d(F.avg_pool2d(image[None], (side, 1), 1), (1, side), 1)[0]


def count_features(bands: int, windows: Sequence[int]) -> int:
    """Return how many features a modality of so many bands has."""
    return bands * (1 + 2 * len(windows))


def count_differences(bands: int, windows: Sequence[int]) -> int:
    """Return how many features `with_differences` makes of a modality of so many bands."""
    return count_features(bands, windows) + 2 * (bands - 1)


def with_differences(features: Tensor, windows: Sequence[int]) -> Tensor:
    """Return window features (F, N) of one modality and, below them, differences of neighbouring bands.

    The shape of a spectrum tells what its level does not, and stays where light, haze or season shift all bands. They
    are those of the pixel's bands and of their means in the middle one of `windows`.
    """
    bands, middle = len(features) // count_features(1, windows), len(windows) // 2
    mean = bands * (1 + 2 * middle)
    return torch.cat([features, features[:bands].diff(dim=0), features[mean : mean + bands].diff(dim=0)])

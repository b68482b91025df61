# SPDX-License-Identifier: GPL-2.0-or-later
"""Training and validation kept apart in space: whole groups of scenes, or blocks with a gap around; never pixels.

Neighbouring pixels are alike, so a split by pixels measures memory, not skill (Roberts et al. 2017, "Cross-validation
strategies for data with temporal, spatial, hierarchical, or phylogenetic structure", doi:10.1111/ecog.02881).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import LacunaError
from .manifest import SplitRule

# What a pixel is for. Those in the gap are for nothing: too near to validation for training.
TRAIN, VALIDATION, GAP, TEST = range(4)
REGIONS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
_POOL = 64
# Sides of blocks that are tried, in pixels, and the share of labels that a gap may not go below.
_SIZES = (256, 192, 128, 96, 64, 48, 32, 24, 16, 8)
_LEAST_KEPT = 0.5
_MOST_BLOCKS = 8192
_WANTED_BLOCKS = 4


def choose_validation(counts: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which units (groups, blocks) go to validation, so that it gets about `share` of every class.

    Units are taken greedily, each time the one of a random pool that brings the classes' shares nearest to the goal,
    every class counting alike, until none does. At least one unit goes to validation and one does not.

    Args:
        counts: (units, K), labelled pixels of each class in each unit; at least two units.
        share: wanted share of validation.
        seed: of the order in which units are looked at.

    Returns:
        bool (units,).
    """
    totals = counts.sum(axis=0)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    goal = np.where(totals > 0, share, 0.0)
    order = np.random.default_rng(seed).permutation(len(counts)).tolist()
    chosen: list[int] = []
    have = np.zeros(len(goal))
    while order and len(chosen) < len(counts) - 1:
        pool = order[:_POOL]
        after = np.abs(goal - have - shares[pool]).sum(axis=1)
        best = int(after.argmin())
        if chosen and after[best] >= np.abs(goal - have).sum():
            del order[:_POOL]
            continue
        have += shares[pool[best]]
        chosen.append(order.pop(best))
    picked = np.zeros(len(counts), bool)
    picked[chosen] = True
    return picked


def split_groups(groups: Sequence[str], counts: np.ndarray, rule: SplitRule) -> list[int]:
    """Return TRAIN or VALIDATION for each scene; those of one group go together.

    Args:
        groups: the group of each scene.
        counts: (scenes, K), labelled pixels of each class.
        rule: share and seed.

    Raises:
        LacunaError: `bad-split`, there is only one group.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        raise LacunaError(
            "bad-split",
            f"All scenes that name no split are of one group ({names[0]}), which cannot be divided by group.",
            'Divide it by blocks (method = "block" in the table split), or name the split of each scene.',
        )
    members = np.array([names.index(group) for group in groups])
    summed = np.stack([counts[members == index].sum(axis=0) for index in range(len(names))])
    picked = choose_validation(summed, rule.validation, rule.seed)
    return [VALIDATION if picked[index] else TRAIN for index in members]


def split_blocks(labels: Sequence[np.ndarray], classes: int, rule: SplitRule) -> list[np.ndarray]:
    """Return for each scene what its pixels are for, decided by square blocks, in every scene anew.

    No training pixel lies within `rule.gap` pixels (in rows or columns) of a validation block: such pixels are GAP. A
    scene with labels in one block only is for training.

    Args:
        labels: class indices (h, w) of each scene, -1 for none.
        classes: number of classes K.
        rule: sizes, share and seed.

    Returns:
        For each scene uint8 (h, w): TRAIN, VALIDATION or GAP.

    Raises:
        LacunaError: `bad-split`, in no scene do two blocks have labels.
    """
    regions = [np.full(indices.shape, TRAIN, np.uint8) for indices in labels]
    for region, indices in zip(regions, labels):
        corners, counts = _blocks(indices, classes, rule.block)
        if len(corners) > 1:
            picked = choose_validation(counts, rule.validation, rule.seed)
            _paint(region, [corner for corner, take in zip(corners, picked) if take], rule)
    if not any((region == VALIDATION).any() for region in regions):
        raise LacunaError(
            "bad-split",
            f"In no scene do labels fill two blocks of {rule.block} pixels, so none can be divided.",
            "Take smaller blocks (block in the table split), or name the split of each scene.",
        )
    return regions


def split_objects(
    labels: Sequence[np.ndarray], objects: Sequence[np.ndarray], classes: int, rule: SplitRule
) -> list[np.ndarray]:
    """Return for each scene what its pixels are for, whole polygons being on one side.

    Training pixels within `rule.gap` pixels of validation are GAP, as are labelled pixels of several polygons.

    Args:
        labels: class indices (h, w) of each scene, -1 for none.
        objects: the number of the polygon (h, w) at each pixel, -1 for none.
        classes: number of classes K.
        rule: gap, share and seed.

    Raises:
        LacunaError: `bad-split`, there are fewer than two polygons.
    """
    known = [(indices >= 0) & (numbers >= 0) for indices, numbers in zip(labels, objects)]
    pairs = np.concatenate([np.stack([n[k], i[k]]) for i, n, k in zip(labels, objects, known)], axis=1)
    numbers, where = np.unique(pairs[0], return_inverse=True)
    if len(numbers) < 2:
        raise LacunaError(
            "bad-split",
            f"The labels are {len(numbers)} polygon (or group of polygons), which cannot be divided.",
            "Draw more polygons, or divide by blocks.",
        )
    counts = np.zeros((len(numbers), classes), np.int64)
    np.add.at(counts, (where, pairs[1]), 1)
    chosen = numbers[choose_validation(counts, rule.validation, rule.seed)]
    return [_part(k & np.isin(n, chosen), i >= 0, k, rule.gap) for i, n, k in zip(labels, objects, known)]


def _part(validation: np.ndarray, labelled: np.ndarray, known: np.ndarray, gap: int) -> np.ndarray:
    """Return the region of a scene in which the pixels `validation` (h, w) are so, with a gap around them."""
    region = np.full(validation.shape, TRAIN, np.uint8)
    region[_grow(validation, gap) | (labelled & ~known)] = GAP
    region[validation] = VALIDATION
    return region


def _grow(mask: np.ndarray, by: int) -> np.ndarray:
    """Return where a pixel of `mask` (h, w) lies within `by` rows and columns."""
    for axis in (0, 1):
        sums = np.cumsum(np.insert(mask.astype(np.int64), 0, 0, axis), axis)
        ends = np.arange(mask.shape[axis])
        low, high = np.maximum(ends - by, 0), np.minimum(ends + by + 1, mask.shape[axis])
        mask = np.take(sums, high, axis) > np.take(sums, low, axis)
    return mask


def choose_blocks(labels: Sequence[np.ndarray], classes: int, margin: int, default: SplitRule) -> SplitRule:
    """Return the rule by blocks that suits labels: as large blocks and as wide a gap as leave something to learn from.

    The gap is `margin`; where no size of blocks then leaves labels of the classes on both sides it is halved, again and
    again. Among sizes that lose no more than half of the labels to the gap that one wins that has most classes on both
    sides, then the one with four blocks of validation or more, then the one that loses fewest labels, then the largest.

    Args:
        labels: class indices (h, w) of each scene, -1 for none.
        classes: number of classes K.
        margin: pixels that a network looks beyond its own, the gap wanted.
        default: share and seed.

    Raises:
        LacunaError: `bad-split`, not even the smallest blocks can be divided.
    """
    present = np.unique(np.concatenate([indices[indices >= 0] for indices in labels]))
    area = sum(indices.size for indices in labels)
    sizes = [side for side in _SIZES if area <= _MOST_BLOCKS * side**2] or [math.isqrt(area // _MOST_BLOCKS) + 1]
    gap = margin
    while True:
        rules = [replace(default, method="block", block=block, gap=gap) for block in sizes]
        ratings = [(_rate(labels, classes, rule), rule) for rule in rules]
        (enough, shared, *_), best = max(ratings, key=lambda item: item[0])
        if enough and shared == len(present):
            return best
        if gap == 0:
            break
        gap //= 2
    if shared == 0:
        split_blocks(labels, classes, best)
        raise LacunaError(
            "bad-split",
            "The labels lie so close together that no blocks divide them into training and validation.",
            "Label more places, apart from each other.",
        )
    return best


def _rate(labels: Sequence[np.ndarray], classes: int, rule: SplitRule) -> tuple[bool, int, int, float]:
    """Return how good a division by blocks is, the larger the better.

    That is: whether the gap leaves enough labels, how many classes have labels on both sides, how many blocks of
    validation there are, up to four, and the share of labels that the gap leaves.
    """
    try:
        regions = split_blocks(labels, classes, rule)
    except LacunaError:
        return False, 0, 0, 0.0
    counts = np.zeros((4, classes), np.int64)
    for region, indices in zip(regions, labels):
        known = indices >= 0
        np.add.at(counts, (region[known], indices[known]), 1)
    both = int(((counts[TRAIN] > 0) & (counts[VALIDATION] > 0)).sum())
    kept = round(1 - counts[GAP].sum() / counts.sum(), 1)
    blocks = sum(int((region == VALIDATION).sum()) for region in regions) // rule.block**2
    return bool(kept >= _LEAST_KEPT), both, min(blocks, _WANTED_BLOCKS), float(kept)


def _blocks(labels: np.ndarray, classes: int, side: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return the corners (row, column) of blocks that have labels, and their labelled pixels by class (blocks, K)."""
    corners, counts = [], []
    for row in range(0, labels.shape[0], side):
        for column in range(0, labels.shape[1], side):
            known = labels[row : row + side, column : column + side]
            known = known[known >= 0]
            if known.size:
                corners.append((row, column))
                counts.append(np.bincount(known, minlength=classes))
    return corners, np.array(counts)


def _paint(region: np.ndarray, corners: Sequence[tuple[int, int]], rule: SplitRule) -> None:
    """Mark the blocks at `corners` as validation in `region`, and what is too near to them as gap."""
    for row, column in corners:
        rows = slice(max(row - rule.gap, 0), row + rule.block + rule.gap)
        region[rows, max(column - rule.gap, 0) : column + rule.block + rule.gap] = GAP
    for row, column in corners:
        region[row : row + rule.block, column : column + rule.block] = VALIDATION

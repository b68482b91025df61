# SPDX-License-Identifier: GPL-2.0-or-later
"""Training and validation kept apart in space: whole groups of scenes, or blocks with a gap around; never pixels.

Neighbouring pixels are alike, so a split by pixels measures memory, not skill (Roberts et al. 2017, "Cross-validation
strategies for data with temporal, spatial, hierarchical, or phylogenetic structure", doi:10.1111/ecog.02881).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import LacunaError
from .manifest import SplitRule

# What a pixel is for. Those in the gap are for nothing: too near to validation for training.
TRAIN, VALIDATION, GAP, TEST = range(4)
REGIONS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
_POOL = 64


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
    """Return for each scene what its pixels are for, decided by square blocks.

    No training pixel lies within `rule.gap` pixels (in rows or columns) of a validation block: such pixels are GAP.

    Args:
        labels: class indices (h, w) of each scene, -1 for none.
        classes: number of classes K.
        rule: sizes, share and seed.

    Returns:
        For each scene uint8 (h, w): TRAIN, VALIDATION or GAP.

    Raises:
        LacunaError: `bad-split`, fewer than two blocks have labels.
    """
    blocks, counts = [], []
    for scene, indices in enumerate(labels):
        for row in range(0, indices.shape[0], rule.block):
            for column in range(0, indices.shape[1], rule.block):
                known = indices[row : row + rule.block, column : column + rule.block]
                known = known[known >= 0]
                if known.size:
                    blocks.append((scene, row, column))
                    counts.append(np.bincount(known, minlength=classes))
    if len(blocks) < 2:
        raise LacunaError(
            "bad-split",
            f"Labels fill only {len(blocks)} block of {rule.block} pixels, which cannot be divided.",
            "Take smaller blocks (block in the table split), or name the split of each scene.",
        )
    picked = choose_validation(np.array(counts), rule.validation, rule.seed)
    return _paint([indices.shape for indices in labels], [block for block, take in zip(blocks, picked) if take], rule)


def _paint(
    shapes: Sequence[tuple[int, int]], chosen: Sequence[tuple[int, int, int]], rule: SplitRule
) -> list[np.ndarray]:
    """Return the regions of scenes of `shapes` in which the blocks `chosen` (scene, row, column) are validation."""
    regions = [np.full(shape, TRAIN, np.uint8) for shape in shapes]
    for scene, row, column in chosen:
        rows = slice(max(row - rule.gap, 0), row + rule.block + rule.gap)
        columns = slice(max(column - rule.gap, 0), column + rule.block + rule.gap)
        regions[scene][rows, columns] = GAP
    for scene, row, column in chosen:
        regions[scene][row : row + rule.block, column : column + rule.block] = VALIDATION
    return regions

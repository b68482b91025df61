# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of an evidence raster: bit i is set where modality i, in the card's order, was used; 0 is nodata."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def evidence_of(scenario: Collection[str], order: Sequence[str]) -> int:
    """Return the number that stands for the modalities of `scenario`, with `order` that of the card."""
    return sum(1 << bit for bit, name in enumerate(order) if name in scenario)


def scenario_of(evidence: int, order: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities that the number `evidence` stands for, with `order` that of the card."""
    return tuple(name for bit, name in enumerate(order) if evidence >> bit & 1)

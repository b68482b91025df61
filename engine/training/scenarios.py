# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios in training: which of a crop's modalities the model is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..checkpoint.card import Modality, Scenario, scenarios

# Draws, for the modalities that a crop has, those that it is to be trained with.
Strategy = Callable[[Scenario, np.random.Generator], Scenario]


def supported(modalities: Sequence[Modality]) -> list[Scenario]:
    """Return the scenarios in which every required modality is present, in the order of the contract."""
    required = {item.name for item in modalities if item.required}
    return [found for found in scenarios([item.name for item in modalities]) if required <= set(found)]


def full(modalities: Sequence[Modality]) -> Strategy:
    """Return the strategy that leaves every modality in: architectures with draws of their own need no other."""
    return lambda available, rng: available


def uniform(modalities: Sequence[Modality]) -> Strategy:
    """Return the strategy that draws each supported scenario with the same probability."""
    every = supported(modalities)

    def draw(available: Scenario, rng: np.random.Generator) -> Scenario:
        possible = [scenario for scenario in every if set(scenario) <= set(available)]
        return possible[rng.integers(len(possible))] if possible else available

    return draw


STRATEGIES: dict[str, Callable[[Sequence[Modality]], Strategy]] = {"full": full, "uniform": uniform}

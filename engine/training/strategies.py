# SPDX-License-Identifier: GPL-2.0-or-later
"""Strategies: with which of the modalities that a crop has the model is trained, one interface for all of them.

A strategy is a probability for every scenario that the model supports, in the order of the contract. A crop that lacks
modalities draws among the scenarios that it can show, their probabilities renormalised.

Architectures draw too, in their own objectives (`draws_scenarios` in `models.base`): a training from scratch leaves
that to them (`own_draws`), a fine-tuning draws here and tells them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..checkpoint.card import Card, Modality, Scenario, scenarios
from ..errors import UsageError
from ..models.base import SegmentationModel

# More scenarios than those of ten modalities are drawn from no table.
MOST_SCENARIOS = 1023


class Strategy:
    """Draws, for the modalities that a crop has, those that it is to be trained with.

    Args:
        order: the scenarios, in the order of the contract.
        probabilities: of each.
        own_draws: whether the network draws further, among what is drawn here; else it is told to train just that.
    """

    def __init__(self, order: Sequence[Scenario], probabilities: np.ndarray, own_draws: bool = False) -> None:
        self.order, self.own_draws = list(order), own_draws
        self.probabilities = np.asarray(probabilities, np.float64)

    def __call__(self, available: Scenario, rng: np.random.Generator) -> Scenario:
        """Return the scenario drawn for a crop that has the modalities `available`.

        Where all that is possible has probability 0 the largest possible scenario is taken, and `available` itself
        where no scenario is possible at all.
        """
        shares = restricted(self.order, self.probabilities, available)
        if shares is None:
            return available
        drawn = np.searchsorted(np.cumsum(shares), rng.random() * shares.sum(), side="right")
        return self.order[min(int(drawn), int(np.flatnonzero(shares)[-1]))]

    def start_epoch(self, epoch: int, model: SegmentationModel) -> dict[str, Any]:
        """Take note that `epoch`, from 0, begins; return what the history is to hold of it: new `probabilities`."""
        return {}

    def restore(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Set the probabilities that the last epoch of `history` was drawn with."""
        for entry in history:
            if "probabilities" in entry:
                self.probabilities = np.array(entry["probabilities"])

    def describe(self) -> dict[str, Any]:
        """Return the strategy as JSON values: scenarios in the contract's order, and their probabilities."""
        return {
            "scenarios": [list(scenario) for scenario in self.order],
            "probabilities": [round(float(value), 6) for value in self.probabilities],
        }


def restricted(order: Sequence[Scenario], probabilities: np.ndarray, available: Scenario) -> np.ndarray | None:
    """Return the probabilities that `available` modalities leave, renormalised; None where no scenario is possible."""
    possible = np.array([set(scenario) <= set(available) for scenario in order])
    if not possible.any():
        return None
    shares = np.where(possible, probabilities, 0.0)
    if shares.sum() == 0:
        shares[np.flatnonzero(possible)[-1]] = 1.0
    return shares / shares.sum()


def supported(modalities: Sequence[Modality]) -> list[Scenario]:
    """Return the scenarios in which every required modality is present, in the order of the contract."""
    required = {item.name for item in modalities if item.required}
    return [found for found in scenarios([item.name for item in modalities]) if required <= set(found)]


def full_probabilities(order: Sequence[Scenario]) -> np.ndarray:
    """Return probability 1 for the last scenario, the full one."""
    return np.eye(len(order))[-1]


def uniform_probabilities(order: Sequence[Scenario]) -> np.ndarray:
    """Return the same probability for every scenario."""
    return np.full(len(order), 1 / len(order))


def anyseg_probabilities(order: Sequence[Scenario]) -> np.ndarray:
    """Return the probabilities of drawing first a size, then a scenario of it, each with equal chances.

    Zheng et al. 2024, "Learning Robust Anymodal Segmentor with Unimodal and Cross-modal Distillation",
    https://arxiv.org/abs/2411.17141.
    """
    sizes = np.array([len(scenario) for scenario in order])
    kinds, where, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    return 1 / (len(kinds) * counts[where])


def mas_probabilities(order: Sequence[Scenario]) -> np.ndarray:
    """Return what modality-aware sampling comes to where the architecture has no draw of its own.

    SGMA's objective has two branches, all modalities and one alone; its single modality is drawn by robustness weights
    that other architectures lack, so here half of the crops are full and half have one of the smallest scenarios (a
    single modality, unless others are required), each as often.
    """
    if len(order) == 1:
        return np.ones(1)
    sizes = np.array([len(scenario) for scenario in order])
    smallest = (sizes == sizes.min()) & (np.arange(len(order)) < len(order) - 1)
    return 0.5 * smallest / smallest.sum() + 0.5 * full_probabilities(order)


# Rules that need neither measurements nor weights, by the name of the strategy.
RULES: dict[str, Callable[[Sequence[Scenario]], np.ndarray]] = {
    "full": full_probabilities,
    "uniform": uniform_probabilities,
    "anyseg": anyseg_probabilities,
    "mas": mas_probabilities,
}


def named_strategy(name: str, modalities: Sequence[Modality]) -> Strategy:
    """Return the strategy of `RULES` called `name`, over the scenarios that `modalities` allow; networks draw further.

    So a training from scratch draws.
    """
    order = supported(modalities)
    return Strategy(order, RULES[name](order), own_draws=True)


def given_probabilities(card: Card, weights: Sequence[float]) -> np.ndarray:
    """Return probabilities in proportion to `weights`, checked.

    Args:
        card: of the checkpoint.
        weights: one for each scenario that the card supports, or for every scenario, in the order of the contract.

    Raises:
        UsageError: `bad-weights`: too few or many, negative, not finite, all 0, or above 0 for what is not supported.
    """
    order, every = card.supported(), scenarios(card.names)
    found = np.asarray(weights, np.float64)
    if len(found) not in (len(order), len(every)):
        raise _bad_weights(f"{len(found)} weights were given", f"Give {len(order)}, one for each of: {_names(order)}.")
    if not np.isfinite(found).all() or (found < 0).any() or found.sum() <= 0:
        raise _bad_weights(f"the weights are {found.tolist()}", "Give numbers of at least 0, not all of them 0.")
    if len(found) != len(order):
        refused = [scenario for scenario, weight in zip(every, found) if weight > 0 and scenario not in order]
        if refused:
            raise _bad_weights(f"the checkpoint does not support {_names(refused)}", "Give these the weight 0.")
        found = np.array([weight for scenario, weight in zip(every, found) if scenario in order])
    return found / found.sum()


def _names(order: Sequence[Scenario]) -> str:
    return "; ".join(" + ".join(scenario) for scenario in order)


def _bad_weights(found: str, hint: str) -> UsageError:
    return UsageError("bad-weights", f"The scenarios cannot be weighted: {found}.", hint)

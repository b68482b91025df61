# SPDX-License-Identifier: GPL-2.0-or-later
"""How Lacuna stands to the better of its opponents, and whether the goals are met; numbers are points of mIoU."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Points of mIoU that Lacuna is to be ahead of the better opponent: in the mean, and in the worst scenario.
AVERAGE, WORST = 3.0, 5.0

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Standing:
    """Lacuna beside its opponents, over the seeds that all of them have.

    Attributes:
        seeds: how many these are.
        rival: the opponent with the best mean over the scenarios.
        average: how far Lacuna's mean is ahead of it.
        worst: how far Lacuna's worst scenario is ahead of the best among the opponents' worst ones.
        ahead: for each scenario, how far Lacuna is ahead of the opponent that is best there.
        spreads: deviation of that over the seeds, each with the same labels for both; 0 for a single seed.
    """

    seeds: int
    rival: str
    average: float
    worst: float
    ahead: list[float]
    spreads: list[float]

    @property
    def behind(self) -> list[int]:
        """Numbers of the scenarios in which Lacuna is behind by more than the seeds' spread."""
        return [index for index, pair in enumerate(zip(self.ahead, self.spreads)) if pair[0] < -pair[1]]


def standing(ours: Records, rivals: Mapping[str, Records]) -> Standing | None:
    """Return how `ours` stand to `rivals`; None while some have not been measured with a common seed."""
    found = {"": _by_seed(ours), **{name: _by_seed(items) for name, items in rivals.items()}}
    seeds = sorted(set.intersection(*(set(item) for item in found.values())))
    if not seeds or not rivals:
        return None
    levels = {name: [statistics.mean(values) for values in zip(*(item[seed] for seed in seeds))]
              for name, item in found.items()}  # fmt: skip
    own, others = levels.pop(""), levels
    rival = max(others, key=lambda name: statistics.mean(others[name]))
    ahead, spreads = [], []
    for index, level in enumerate(own):
        better = max(others, key=lambda name: others[name][index])
        ahead.append(level - others[better][index])
        pairs = [found[""][seed][index] - found[better][seed][index] for seed in seeds]
        spreads.append(statistics.stdev(pairs) if len(pairs) > 1 else 0.0)
    return Standing(
        len(seeds),
        rival,
        statistics.mean(own) - statistics.mean(others[rival]),
        min(own) - max(map(min, others.values())),
        ahead,
        spreads,
    )


def in_words(found: Standing | None, goal: Literal["gain", "cost", "none"]) -> str:
    """Return a standing in words, with the goals that are set: all, that no scenario is behind, or none."""
    if found is None:
        return ""
    text = (
        f"Against the better opponent: average {found.average:+.1f} points ({found.rival}), worst scenario "
        f"{found.worst:+.1f}, ahead in {sum(value > 0 for value in found.ahead)} of {len(found.ahead)} scenarios, "
        f"{'farthest behind' if min(found.ahead) < 0 else 'least ahead'} {min(found.ahead):+.1f}."
    )
    goals = []
    if goal == "gain":
        goals.append(f"average of at least {AVERAGE:+g} {_met(found.average >= AVERAGE)}")
        goals.append(f"worst scenario of at least {WORST:+g} {_met(found.worst >= WORST)}")
    if goal != "none":
        count = f" ({len(found.behind)} of {len(found.ahead)})" if found.behind else ""
        spread = "seeds' spread" if found.seeds > 1 else "seeds' spread (0 for one seed)"
        goals.append(f"no scenario behind by more than the {spread} {_met(not found.behind)}{count}")
    return f"{text} Goals: {', '.join(goals)}." if goals else text


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _by_seed(items: Records) -> dict[int, list[float]]:
    """Return the mIoU of each scenario, in per cent, by seed."""
    return {item["seed"]: [100 * case["miou"] for case in item["cases"]] for item in items}

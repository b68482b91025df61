# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of the networks from scratch: architectures and baselines of a data set, then the ablations."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .goal import in_words, standing
from .protocol import ABLATIONS, ARCHITECTURES, BASELINES, DATASETS, DEFAULT, Dataset

Records = Sequence[Mapping[str, Any]]


def network_tables(records: Records) -> list[str]:
    """Return the parts of the page about networks; `records` are those of networks alone."""
    parts = []
    for dataset in DATASETS.values():
        own = {
            variant: [item for item in records if (item["dataset"], item["variant"]) == (dataset.name, variant)]
            for variant in dataset.networks
        }
        own = {variant: items for variant, items in own.items() if items}
        if own:
            parts += [f"### Networks from scratch on {dataset.name}\n", *_dataset(dataset, own)]
    return parts


def _dataset(dataset: Dataset, own: Mapping[str, Records]) -> list[str]:
    names = [" + ".join(case["available"]) for case in next(iter(own.values()))[0]["cases"]]
    compared = [name for name in (*ARCHITECTURES, *BASELINES) if name in own]
    ablated = [name for name in ABLATIONS if name in own]
    parts = []
    if compared:
        parts.append("mIoU in per cent: mean, best and worst of the scenarios, then each; overall accuracy.\n")
        head = ["network", "mean", "best", "worst", *names, "accuracy", "seconds", "seeds"]
        parts.append(_table(head, [_row(name, own[name]) for name in compared]))
    # A comparison with a part of the opponents would flatter.
    rivals = {name: own.get(name, []) for name in BASELINES if name in dataset.networks}
    told = in_words(standing(own.get(DEFAULT, []), rivals), dataset.goal)
    if told:
        parts.append(f"{DEFAULT}. {told}\n")
    if ablated:
        parts.append("Parts left out, with the difference to the whole over the same seeds.\n")
        head = ["network", "difference", "mean", "best", "worst", *names, "seeds"]
        parts.append(_table(head, [_ablation(name, own) for name in ablated]))
    return parts


def _row(variant: str, items: Records) -> list[str]:
    seconds = statistics.mean(item["seconds"] for item in items)
    own = [percent([item["miou"] for item in items]), *_levels(items), percent([item["oa"] for item in items])]
    return [variant, *own, f"{seconds:.0f}", str(len(items))]


def _ablation(variant: str, own: Mapping[str, Records]) -> list[str]:
    items = own[variant]
    whole = {item["seed"]: item["miou"] for item in own.get(ABLATIONS[variant], [])}
    pairs = [item["miou"] - whole[item["seed"]] for item in items if item["seed"] in whole]
    difference = percent(pairs, signed=True) if pairs else ""
    return [variant, difference, percent([item["miou"] for item in items]), *_levels(items), str(len(items))]


def _levels(items: Records) -> list[str]:
    """Return best and worst of the scenarios, then each: means over the seeds."""
    cases = scenario_means(items)
    return [f"{100 * value:.1f}" for value in (max(cases), min(cases), *cases)]


def scenario_means(items: Records) -> list[float]:
    """Return the mIoU of each scenario, its mean over the seeds."""
    return [statistics.mean(values) for values in zip(*([case["miou"] for case in item["cases"]] for item in items))]


def percent(values: Sequence[float], signed: bool = False) -> str:
    """Return the mean in per cent, of several values with their deviation."""
    mean = f"{100 * statistics.mean(values):{'+' if signed else ''}.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, its first column to the left."""
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])

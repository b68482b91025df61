# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of `docs/strategies.md`, made from the stored results.

    .venv/bin/python -m lacuna.tests.benchmarks.strategies.table [--results FILE] [--write]

Prints them as Markdown, or with --write puts them between the two marks of the page.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import results
from .protocol import ARCHITECTURES, BASE, DATASETS, REFERENCE, SEEDS, STRATEGIES, Cell
from .results import MEASURES, Spread, spread

PAGE = Path(__file__).resolve().parents[3] / "docs" / "strategies.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
_HEADS = {"average": "Average", "best": "Best", "last": "Last", "full": "all modalities"}
_OTHERS = [name for name in STRATEGIES if name != REFERENCE]

Found = Mapping[Cell, Mapping[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or put them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results.STORED, help="default: the results in the repository")
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE.name}")
    options = parser.parse_args(arguments)
    text = markdown(results.read(options.results))
    if options.write:
        PAGE.write_text(inserted(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    else:
        print(text)
    return 0


def markdown(records: Iterable[Mapping[str, Any]]) -> str:
    """Return all tables of some results."""
    found = results.by_cell(records)
    parts = [f"{_complete(found)}\n"]
    for dataset in DATASETS:
        parts += [f"### {dataset}\n", _floor(found, dataset), _scores(found, dataset)]
    for measure in ("average", "last"):
        title = f"### {_HEADS[measure]}: difference to `{REFERENCE}`, seed by seed\n"
        parts += [title, _differences(found, measure)]
    parts += ["### What latent guidance drew\n", _probabilities(found)]
    parts += ["### Seconds\n", _seconds(found)]
    return "\n".join(parts)


def inserted(page: str, text: str) -> str:
    """Return the page with `text` between its marks.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def _complete(found: Found) -> str:
    """Return how many cells there are, and which seeds are not complete."""
    cells = [cell for cell in found if cell.strategy != BASE]
    whole = len(ARCHITECTURES) * len(DATASETS) * len(STRATEGIES)
    counts = [sum(cell.seed == seed for cell in cells) for seed in SEEDS]
    told = ", ".join(f"seed {seed}: {count} of {whole}" for seed, count in zip(SEEDS, counts))
    return f"{len(cells)} of {whole * len(SEEDS)} fine-tunings measured ({told})."


def _floor(found: Found, dataset: str) -> str:
    """Return what a map of one class would score."""
    floors = {round(results.commonest(record), 1) for cell, record in found.items() if cell.dataset == dataset}
    told = ", ".join(f"{value:.1f}" for value in sorted(floors))
    return f"A map of the most frequent class alone has the mIoU {told}.\n" if floors else "Not measured.\n"


def _scores(found: Found, dataset: str) -> str:
    """Return the table of one data set: mean and standard deviation over the seeds."""
    rows = []
    for group in _groups(found, dataset):
        for strategy in (BASE, *STRATEGIES):
            own = [results.scores(record) for cell, record in found.items() if cell[:3] == (*group, strategy)]
            if own:
                cells = [_told(spread([item[measure] for item in own])) for measure in MEASURES]
                rows.append([group[0], _word(strategy), *cells, str(len(own)) if strategy != BASE else ""])
    return _table(["network", "strategy", *_HEADS.values(), "seeds"], rows, texts=2)


def _differences(found: Found, measure: str) -> str:
    """Return the table of paired differences of a measure, their spread, and how often they were positive."""
    rows, means, wins = [], {name: [] for name in _OTHERS}, {name: [] for name in _OTHERS}
    for dataset in DATASETS:
        for group in _groups(found, dataset):
            row = list(group)
            for strategy in _OTHERS:
                values = results.differences(found, group, strategy, measure)
                if values:
                    means[strategy].append(statistics.fmean(values))
                    wins[strategy] += [value > 0 for value in values]
                row.append(f"{_told(spread(values), sign=True)} ({_above(values)})" if values else "")
            rows.append(row)
    for name, chosen in (("mean ± deviation of the rows", means), ("seeds above `uniform`", wins)):
        rows.append([f"**{name}**", "", *(_summary(chosen[strategy]) for strategy in _OTHERS)])
    return _table(["network", "data set", *map(_word, _OTHERS)], rows, texts=2)


def _summary(values: Sequence[float | bool]) -> str:
    """Return mean and spread of differences, or how many of the wins there were."""
    if not values:
        return ""
    if isinstance(values[0], bool):
        return f"{sum(values)} of {len(values)}"
    return f"{_told(spread(values), sign=True)} ({_above(values)})"


def _above(values: Sequence[float]) -> str:
    return f"{sum(value > 0 for value in values)} of {len(values)}"


def _probabilities(found: Found) -> str:
    """Return the lowest and the highest probability of a scenario, the mean over the seeds, and whose it is."""
    rows = []
    for dataset in DATASETS:
        for group in _groups(found, dataset):
            row = list(group)
            for strategy in ("latent-paper", "latent-default"):
                own = [record for cell, record in found.items() if cell[:3] == (*group, strategy)]
                row.append(_range(own) if own else "")
            rows.append(row)
    return _table(["network", "data set", "latent `paper`", "latent default"], rows, texts=4)


def _range(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the least and the most likely scenario of a strategy with their probabilities."""
    order = [" + ".join(case["available"]) for case in records[0]["cases"]]
    means = [statistics.fmean(values) for values in zip(*(record["probabilities"] for record in records))]
    low, high = means.index(min(means)), means.index(max(means))
    return f"{means[low]:.3f} ({order[low]}) to {means[high]:.3f} ({order[high]})"


def _seconds(found: Found) -> str:
    """Return the wall time of base, fine-tuning and test, and the size of each network."""
    heads = [
        "network",
        "data set",
        "weights",
        "of LoRA",
        "training of the base",
        "fine-tuning (median)",
        "test (median)",
    ]
    groups = [group for dataset in DATASETS for group in _groups(found, dataset)]
    return _table(heads, [[*group, *_costs(found, group)] for group in groups], texts=2)


def _costs(found: Found, group: tuple[str, str]) -> list[str]:
    """Return weights, weights of LoRA, and seconds of base, fine-tuning and test of a group."""
    base = found.get(Cell(*group, BASE, -1))
    own = [record for cell, record in found.items() if cell.group == group and cell.strategy != BASE]
    small = max(record["weights"]["lora"] for record in own)
    times = [statistics.median(record[key] for record in own) for key in ("tuning_seconds", "test_seconds")]
    times = [base["tuning_seconds"] if base else None, *times]
    weights = [min(record["weights"]["all"] for record in own), small]
    return [f"{value:,}" for value in weights] + ["" if value is None else f"{value:.0f}" for value in times]


def _groups(found: Found, dataset: str) -> list[tuple[str, str]]:
    """Return the groups of a data set, the networks in the order of the protocol."""
    known = results.groups(found)
    return [(name, dataset) for name in ARCHITECTURES if (name, dataset) in known]


def _word(strategy: str) -> str:
    return {"latent-paper": "latent `paper`", "latent-default": "latent default", "lora": "LoRA"}.get(
        strategy, strategy
    )


def _told(value: Spread, sign: bool = False) -> str:
    """Return mean and standard deviation with one decimal; the deviation is left out where there is none."""
    rounded = round(value.mean, 1) + 0.0  # turns -0.0 into 0.0
    mean = f"{rounded:+.1f}" if sign else f"{rounded:.1f}"
    return mean if value.deviation is None else f"{mean} ± {value.deviation:.1f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """Return a Markdown table, its first `texts` columns to the left and the others to the right."""
    marks = ["---" if index < texts else "---:" for index in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, marks, *rows)) + "\n"


if __name__ == "__main__":
    sys.exit(main())

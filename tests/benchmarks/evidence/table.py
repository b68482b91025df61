# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables and the picture of `docs/evidence.md`, made from the stored results.

    .venv/bin/python -m lacuna.tests.benchmarks.evidence.table [--results FILE] [--write]

Prints the tables as Markdown; with --write puts them between the marks of the page, and draws the learning curves.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from . import run
from .curves import picture
from .goal import in_words, standing
from .network_tables import network_tables, percent, scenario_means
from .protocol import AMOUNTS, DATASETS, METHODS, NETWORKS, RIVALS, SCRATCH, Dataset, NetworkCell, cell_of, queue

PAGE = Path(__file__).resolve().parents[3] / "docs" / "evidence.md"
PICTURE = PAGE.parent / "images" / "evidence.svg"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"

Records = Sequence[Mapping[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or put them into the page and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=run.STORED, help="default: the results in the repository")
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE.name}")
    options = parser.parse_args(arguments)
    records = run.read(options.results)
    text = markdown(records)
    if options.write:
        PAGE.write_text(inserted(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
        PICTURE.write_text(picture(of_methods(records)), encoding="utf-8")
    else:
        print(text)
    return 0


def markdown(records: Records) -> str:
    """Return all tables of some results."""
    parts = [f"{_progress(records, False)}, {_progress(records, True)}.\n"]
    for dataset in DATASETS.values():
        own = [item for item in of_methods(records) if item["dataset"] == dataset.name]
        if own:
            parts += [f"### {dataset.name}: {dataset.words}\n", *_tables(dataset, own)]
    return "\n".join([*parts, *network_tables([item for item in records if item.get("kind") == NETWORKS])])


def of_methods(records: Records) -> list[Mapping[str, Any]]:
    """Return the results of cells that compare methods, not networks."""
    return [item for item in records if item.get("kind") != NETWORKS]


def _progress(records: Records, networks: bool) -> str:
    """Return how many cells of one kind are measured, in words."""
    done, whole = (
        sum(isinstance(cell, NetworkCell) == networks for cell in cells)
        for cells in ({cell_of(item) for item in records}, queue())
    )
    return f"{done} of {whole} networks trained" if networks else f"{done} of {whole} cells measured"


def inserted(page: str, text: str) -> str:
    """Return the page with `text` between its marks; ValueError where it lacks one."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def _tables(dataset: Dataset, own: Records) -> list[str]:
    """Return for each amount of labels the table of a data set: methods by scenarios."""
    parts = []
    for amount in AMOUNTS:
        measured = [item for item in own if item["amount"] == amount]
        if not measured:
            continue
        seeds = len({item["seed"] for item in measured})
        told = "All labels" if amount is None else f"{amount} squares a class"
        parts.append(f"{told}, seeds: {seeds}. mIoU in per cent, mean over the scenarios and each; overall accuracy.\n")
        names = [" + ".join(case["available"]) for case in measured[0]["cases"]]
        head = ["method", "mean", *names, "accuracy", "seconds"]
        lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
        rows = {method: [item for item in measured if item["method"] == method] for method in METHODS}
        # Only where a checkpoint is fine-tuned is there something from scratch beside it, and not yet everywhere.
        lines += [_row(method, items) for method, items in rows.items() if items or method != SCRATCH]
        parts.append("\n".join([*lines, "", _goal(measured, dataset.goal), ""]))
    return parts


def _row(method: str, items: Records) -> str:
    """Return the row of a method: means over the seeds, of the mean also the deviation."""
    if not items:
        return f"| {method} |"
    cases = scenario_means(items)
    seconds = statistics.mean(item["seconds"] for item in items)
    cells = [percent([item["miou"] for item in items]), *(f"{100 * value:.1f}" for value in cases)]
    cells += [percent([item["oa"] for item in items]), f"{seconds:.0f}" if seconds else ""]
    return f"| {method} | {' | '.join(cells)} |"


def _goal(measured: Records, goal: Literal["gain", "cost", "none"]) -> str:
    """Return how Lacuna stands to the better of the opponents, in words."""
    by_method = {name: [item for item in measured if item["method"] == name] for name in ("lacuna", *RIVALS)}
    return in_words(standing(by_method.pop("lacuna"), by_method), goal)


if __name__ == "__main__":
    sys.exit(main())

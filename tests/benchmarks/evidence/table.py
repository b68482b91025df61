# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables and the picture of `docs/evidence.md`, made from the stored results.

    .venv/bin/python -m lacuna.tests.benchmarks.evidence.table [--results FILE] [--write]

Prints the tables as Markdown; with --write puts them between the marks of the page, and draws the learning curves.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import run
from .protocol import AMOUNTS, DATASETS, METHODS, RIVALS, queue

PAGE = Path(__file__).resolve().parents[3] / "docs" / "evidence.md"
PICTURE = PAGE.parent / "images" / "evidence.svg"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
_COLOURS = {"lacuna": "#2166ac", "network": "#92c5de", "detail": "#5aae61", "forest": "#b2182b", "boosting": "#f4a582"}

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
        PICTURE.write_text(picture(records), encoding="utf-8")
    else:
        print(text)
    return 0


def markdown(records: Records) -> str:
    """Return all tables of some results."""
    cells = {(item["dataset"], item["amount"], item["seed"]) for item in records}
    parts = [f"{len(cells)} of {len(queue())} cells measured.\n"]
    for dataset in DATASETS.values():
        own = [item for item in records if item["dataset"] == dataset.name]
        if own:
            parts += [f"### {dataset.name}: {dataset.words}\n", *_tables(own)]
    return "\n".join(parts)


def inserted(page: str, text: str) -> str:
    """Return the page with `text` between its marks; ValueError where it lacks one."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def picture(records: Records) -> str:
    """Return the learning curves as SVG: for each data set mean mIoU over the scenarios by the amount of labels."""
    names = [name for name in DATASETS if any(item["dataset"] == name for item in records)]
    width, height, edge = 230, 200, 34
    body = []
    for place, name in enumerate(names):
        body.append(f'<g transform="translate({place * width} 0)">')
        body.append(f'<text x="{edge}" y="14" font-weight="bold">{name}</text>')
        body += _curves([item for item in records if item["dataset"] == name], edge, width - 16, height)
        body.append("</g>")
    for place, method in enumerate(METHODS):
        x = 34 + 110 * place
        body.append(f'<line x1="{x}" x2="{x + 20}" y1="{height + 36}" y2="{height + 36}" {_stroke(method)}/>')
        body.append(f'<text x="{x + 26}" y="{height + 40}">{method}</text>')
    size = f'width="{max(len(names), 3) * width}" height="{height + 52}"'
    paper = f'<rect {size} fill="#fff"/>'
    style = 'font-family="sans-serif" font-size="11" fill="#1f2933"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{paper}' + ("".join(body) + "</svg>\n")


def _curves(own: Records, left: float, right: float, bottom: float) -> Iterable[str]:
    """Yield the axes and the curves of one data set."""
    order = sorted(AMOUNTS, key=lambda amount: amount or 1000)
    top = 24.0
    yield f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#9aa5b1"/>'
    most = math.ceil(10 * max(item["miou"] for item in own)) / 10
    for share in (0, 0.5, 1):
        y = bottom - (bottom - top) * share
        yield f'<text x="{left - 4}" y="{y + 4:.0f}" text-anchor="end">{most * share:.2g}</text>'
    step = (right - left - 20) / (len(order) - 1)
    for index, amount in enumerate(order):
        x = left + 10 + index * step
        yield f'<text x="{x:.0f}" y="{bottom + 14}" text-anchor="middle">{amount or "all"}</text>'
    for method in METHODS:
        points = []
        for index, amount in enumerate(order):
            found = [item["miou"] for item in own if item["method"] == method and item["amount"] == amount]
            if found:
                points.append((left + 10 + index * step, bottom - (bottom - top) * statistics.mean(found) / most))
        if points:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            yield f'<polyline points="{line}" fill="none" {_stroke(method)}/>'
            yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_COLOURS[method]}"/>' for x, y in points)


def _stroke(method: str) -> str:
    return f'stroke="{_COLOURS[method]}" stroke-width="2"'


def _tables(own: Records) -> list[str]:
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
        lines += [_row(method, [item for item in measured if item["method"] == method]) for method in METHODS]
        parts.append("\n".join([*lines, "", _goal(measured), ""]))
    return parts


def _row(method: str, items: Records) -> str:
    """Return the row of a method: means over the seeds, of the mean also the deviation."""
    if not items:
        return f"| {method} |"
    count = len(items[0]["cases"])
    cases = [statistics.mean(item["cases"][index]["miou"] for item in items) for index in range(count)]
    seconds = statistics.mean(item["seconds"] for item in items)
    cells = [_percent([item["miou"] for item in items]), *(f"{100 * value:.1f}" for value in cases)]
    cells += [_percent([item["oa"] for item in items]), f"{seconds:.0f}" if seconds else ""]
    return f"| {method} | {' | '.join(cells)} |"


def _percent(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _goal(measured: Records) -> str:
    """Return how Lacuna stands to the better of the opponents, in words."""
    means = {
        method: [
            statistics.mean(values)
            for values in zip(
                *([case["miou"] for case in item["cases"]] for item in measured if item["method"] == method)
            )
        ]
        for method in ("lacuna", *RIVALS)
    }
    if not all(means.values()):
        return ""
    best = [max(pair) for pair in zip(*(means[name] for name in RIVALS))]
    ahead = [own - other for own, other in zip(means["lacuna"], best)]
    rival = max(RIVALS, key=lambda name: statistics.mean(means[name]))
    average = 100 * (statistics.mean(means["lacuna"]) - statistics.mean(means[rival]))
    worst = 100 * (min(means["lacuna"]) - max(min(means[name]) for name in RIVALS))
    return (
        f"Against the better of both: average {average:+.1f} points ({rival}), worst scenario {worst:+.1f}, ahead in "
        f"{sum(value > 0 for value in ahead)} of {len(ahead)} scenarios, farthest behind {100 * min(ahead):+.1f}."
    )


if __name__ == "__main__":
    sys.exit(main())

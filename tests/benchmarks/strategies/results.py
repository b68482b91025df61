# SPDX-License-Identifier: GPL-2.0-or-later
"""The results of the comparison: one JSON object a line, added as soon as it is measured; and what they come to."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .protocol import BASE, REFERENCE, Cell, digest

STORED = Path(__file__).with_name("results.jsonl")
MEASURES = ("average", "best", "last", "full")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, of which a last line that was cut off is left out; none where there is no file.

    Raises:
        SystemExit: a line is no result, or was measured under other settings than those of `protocol`.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    if text and not text.endswith("\n"):
        lines.pop()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            expected = digest(cell_of(record))
        except (ValueError, KeyError, TypeError) as problem:
            raise SystemExit(f"Line {number} of {path} is no result ({problem!r}): remove it.") from None
        if record["settings"] != expected:
            raise SystemExit(
                f"Line {number} of {path} was measured with other settings ({record['settings']}) than those of "
                f"protocol.py ({expected}): give another file with --results, or measure all anew."
            )
        found.append(record)
    return found


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a result as one line, after the end of a line that was cut off, and see that it is on the disk."""
    with path.open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                _drop_last_line(stream)
        stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def cell_of(record: Mapping[str, Any]) -> Cell:
    """Return what a result is of; a base has the strategy `base` and the seed -1."""
    return Cell(record["architecture"], record["dataset"], record["strategy"], record["seed"])


def scores(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the measures of a result, in per cent.

    The mIoU of a scenario is the mean over the classes that the test labels have, so that it is a mean over the same
    classes in every cell. What is mapped as another class counts as missed.

    Returns:
        `average`, `best` and `last` (lowest) of the scenarios, and `full`, that with all modalities.
    """
    labelled = [index for index, item in enumerate(record["classes"]) if item["labelled"]]
    found = [100 * statistics.fmean(case["iou"][index] or 0.0 for index in labelled) for case in record["cases"]]
    sizes = [len(case["available"]) for case in record["cases"]]
    full = found[sizes.index(max(sizes))]
    return {"average": statistics.fmean(found), "best": max(found), "last": min(found), "full": full}


def commonest(record: Mapping[str, Any]) -> float:
    """Return the mIoU, in per cent, of a map that shows the most frequent class of the test labels everywhere."""
    counts = [item["labelled"] for item in record["classes"] if item["labelled"]]
    return 100 * max(counts) / sum(counts) / len(counts)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of some numbers; the deviation of a single one is None."""

    mean: float
    deviation: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Return mean and spread of at least one number."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def by_cell(records: Iterable[Mapping[str, Any]]) -> dict[Cell, Mapping[str, Any]]:
    """Return the results by cell, checked.

    Raises:
        SystemExit: a cell is there twice, or cells of one group come from different bases.
    """
    found: dict[Cell, Mapping[str, Any]] = {}
    bases: dict[tuple[str, str], str] = {}
    for record in records:
        cell = cell_of(record)
        if cell in found:
            raise SystemExit(f"There are two results of {cell}: remove one.")
        if bases.setdefault(cell.group, record["base"]) != record["base"]:
            raise SystemExit(f"{cell} starts from another base than the other results of {'/'.join(cell.group)}.")
        found[cell] = record
    return found


def seeds_of(found: Mapping[Cell, Any], group: tuple[str, str], strategy: str) -> list[int]:
    """Return the seeds with a result of a strategy."""
    return sorted(cell.seed for cell in found if cell.group == group and cell.strategy == strategy)


def differences(
    found: Mapping[Cell, Mapping[str, Any]], group: tuple[str, str], strategy: str, measure: str = "average"
) -> list[float]:
    """Return how much a strategy is above the reference with the same seed, in points, for each seed that has both."""
    seeds = [seed for seed in seeds_of(found, group, strategy) if Cell(*group, REFERENCE, seed) in found]
    pairs = [[scores(found[Cell(*group, name, seed)])[measure] for name in (strategy, REFERENCE)] for seed in seeds]
    return [own - reference for own, reference in pairs]


def groups(found: Mapping[Cell, Any]) -> list[tuple[str, str]]:
    """Return architecture and data set of all results of fine-tunings, in their order."""
    return list(dict.fromkeys(cell.group for cell in found if cell.strategy != BASE))


def _drop_last_line(stream: Any) -> None:
    """Cut a file that ends within a line after its last whole line."""
    stream.seek(0)
    whole = stream.read().rfind(b"\n") + 1
    stream.truncate(whole)
    stream.seek(whole)

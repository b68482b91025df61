# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of an evaluation: one page of HTML that needs nothing else, made from the result alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from . import charts, page

Result = Mapping[str, Any]

_TITLES = {
    "subsets": "every combination of modalities",
    "emm": "EMM: modalities entirely missing (all zeros)",
    "rmm": "RMM: values missing at random (zeros)",
    "nm": "NM: noise on all modalities",
}
_METHODS = {
    "subsets": (
        "In each scenario the model is given just its modalities; the others are absent, not zero. Only pixels count "
        "where all modalities of the scenario have data: elsewhere another scenario decides when a map is made. mIoU "
        "and F1 are means over the classes that occur in the reference or in the map."
    ),
    "emm": (
        "All modalities are given to the model, the damaged ones as zeros after scaling. This is not the same as a "
        "modality that is absent."
    ),
    "rmm": (
        "All modalities are given to the model; in the damaged ones each value, channel by channel, is set to zero "
        "after scaling with the probability named as the level."
    ),
    "nm": (
        "All modalities are damaged after scaling: salt and pepper (low 5 %, mid 10 %, high 20 % of the values), then "
        "Gaussian noise (standard deviation 0.1, 0.2, 0.5)."
    ),
}
_BENCHMARK = (
    "As in the benchmark of arXiv 2503.18445, mIoU and F1 count a class that does not occur as 0 and are rounded to "
    "0.01 per cent before they are summed up. E(p) is the score to expect when each modality is damaged with "
    "probability p, but never all of them."
)


def evaluation_page(result: Result) -> str:
    """Return the page for a `result` of `evaluate`; it loads nothing and runs no script."""
    name = result["checkpoint"]["name"] or result["checkpoint"]["path"]
    title = f"Evaluation of {name}"
    sections = [
        _head(result, title),
        page.warnings(result["warnings"]),
        _cases(result),
        _aggregates(result),
        _classes(result),
    ]
    sections += [_matrices(result), _calibration(result), _areas(result), _method(result)]
    return page.render(title, sections)


def case_name(case: Result) -> str:
    """Return what a case is called: its modalities, or its level and what is damaged."""
    if "damaged" not in case:
        return " + ".join(case["available"])
    damaged = " + ".join(case["damaged"])
    if not case["available"]:
        return str(case["level"])
    level = "" if case["level"] is None else f"{case['level']:g}: "
    return f"{level}{damaged} damaged" if damaged else f"{level}undamaged"


def main_case(result: Result) -> Result:
    """Return the case that is shown in detail: that with most modalities intact, the first of these."""
    return max(result["cases"], key=lambda case: len(case["available"]))


def _head(result: Result, title: str) -> str:
    cards = [("Average mIoU", result["average"]), ("Best", result["best"]), ("Last", result["last"])]
    cards.append(("Calibration error (ECE)", result["ece"]))
    words = f"{_TITLES[result['protocol']]}; on {result['measured_on']}"
    return page.header(title, words, [(label, f"{value:.3f}") for label, value in cards])


def _cases(result: Result) -> str:
    """Return bars and the table of all cases."""
    cases = result["cases"]
    chart = charts.bars([(case_name(case), case["miou"]) for case in cases], "mIoU of each case")
    head = ["case", "mIoU", "F1", "OA", "kappa", "ECE", "pixels"]
    rows = [
        [
            page.cell(case_name(case)),
            *(page.number_cell(case[key]) for key in ("miou", "f1", "oa", "kappa", "ece")),
            page.cell(f"{case['pixels']:,}"),
        ]
        for case in cases
    ]
    return f"<section><h2>mIoU by case</h2>{chart}{page.table(head, rows)}</section>"


def _aggregates(result: Result) -> str:
    """Return the aggregates of EMM and RMM."""
    if result["protocol"] not in ("emm", "rmm"):
        return ""
    rates = list(result["aggregates"][0]["expected"])
    counts = range(len(result["aggregates"][0]["by_damaged"]))
    head = ["level", "average", *(f"E({rate})" for rate in rates), "best", "last", "retention"]
    head += [f"{count} damaged" for count in counts]
    rows = [
        [page.cell("all zeros" if item["level"] is None else str(item["level"])), page.number_cell(item["average"])]
        + [page.number_cell(item["expected"][rate]) for rate in rates]
        + [page.number_cell(item[key]) for key in ("best", "last", "retention")]
        + [page.number_cell(value) for value in item["by_damaged"]]
        for item in result["aggregates"]
    ]
    return f"<section><h2>mIoU summed up</h2>{page.table(head, rows)}</section>"


def _classes(result: Result) -> str:
    """Return the table of IoU by class and case."""
    head = ["case", *(item["name"] for item in result["classes"])]
    rows = [[page.cell(case_name(case)), *map(page.shaded, case["iou"])] for case in result["cases"]]
    return f"<section><h2>IoU by class</h2>{page.table(head, rows)}</section>"


def _matrices(result: Result) -> str:
    """Return the confusion matrix of the main case and, folded, that of the worst."""
    names = [item["name"] for item in result["classes"]]
    main = main_case(result)
    worst = min(result["cases"], key=lambda case: case["miou"])
    text = "Per cent of the reference class of each row. Point at a cell for the number of pixels."
    parts = [f'<p class="soft">{text}</p>']
    parts.append(f'<div class="two">{_matrix(main, names)}{_accuracies(main, result["classes"])}</div>')
    if worst is not main:
        summary = f"The case with the lowest mIoU: {case_name(worst)}"
        parts.append(f"<details><summary>{escape(summary)}</summary>{_matrix(worst, names)}</details>")
    return f"<section><h2>Confusion matrix: {escape(case_name(main))}</h2>{''.join(parts)}</section>"


def _matrix(case: Result, names: Sequence[str]) -> str:
    return charts.confusion(case["confusion"], names, f"Confusion matrix of {case_name(case)}")


def _accuracies(case: Result, classes: Sequence[Result]) -> str:
    """Return the table of user's and producer's accuracies."""
    counts = case["confusion"]
    rows = []
    for index, item in enumerate(classes):
        mapped, reference = sum(row[index] for row in counts), sum(counts[index])
        hits = counts[index][index]
        rows.append(
            [
                page.class_cell(item),
                page.cell(f"{reference:,}"),
                page.number_cell(hits / mapped if mapped else None),
                page.number_cell(hits / reference if reference else None),
                page.number_cell(case["iou"][index]),
            ]
        )
    return page.table(["class", "labelled", "user's accuracy", "producer's accuracy", "IoU"], rows)


def _calibration(result: Result) -> str:
    main = main_case(result)
    chart = charts.reliability(main["reliability"], f"Reliability diagram of {case_name(main)}")
    text = (
        f"{case_name(main)}: expected calibration error {main['ece']:.3f}. On the dashed line the confidence is the "
        "share of pixels that are right; bars below it mean that the model is too sure of itself."
    )
    return f'<section><h2>Is the confidence right?</h2><p class="soft">{escape(text)}</p>{chart}</section>'


def _areas(result: Result) -> str:
    """Return chart and table of the area estimates."""
    areas = result.get("areas")
    if not areas:
        return ""
    unit, name = (1e6, "km²") if areas["mapped_m2"] >= 1e8 else (1e4, "ha")
    head = ["class", f"mapped ({name})", f"estimated ({name})", "95 % interval"]
    # An area of 0 that only means that nothing was labelled so would look like a certainty.
    labelled = [item for item, given in zip(areas["classes"], result["classes"]) if given["labelled"]]
    rows = []
    for item, given in zip(areas["classes"], result["classes"]):
        estimate = (f"{item['area_m2'] / unit:,.2f}", f"{item['low_m2'] / unit:,.2f} to {item['high_m2'] / unit:,.2f}")
        found = map(page.cell, estimate) if given["labelled"] else [page.number_cell(None)] * 2
        rows.append([page.class_cell(item), page.cell(f"{item['mapped_m2'] / unit:,.2f}"), *found])
    text = (
        f"From the confusion matrix of {' + '.join(areas['available'])}, weighted by the mapped areas (Olofsson et al. "
        f"2014; {areas['design']}). Overall accuracy by area: {areas['oa']:.3f} ± {areas['oa_margin']:.3f}. In the "
        "chart: bar and whiskers, the estimate and its interval; yellow mark, the area in the map."
    )
    chart = charts.intervals(labelled, unit, f"Estimated areas in {name}")
    return f'<section><h2>Areas</h2><p class="soft">{escape(text)}</p>{chart}{page.table(head, rows)}</section>'


def _method(result: Result) -> str:
    """Return how it was measured."""
    checkpoint = result["checkpoint"]
    facts = {
        "checkpoint": checkpoint["path"],
        "SHA-256 when measured": checkpoint["sha256"],
        "SHA-256 with these scores in its card": checkpoint.get("updated_sha256", ""),
        "scenes": "; ".join(
            f"{scene['name']} ({', '.join(scene['modalities'])}; {scene['labelled']:,} labelled pixels)"
            for scene in result["scenes"]
        ),
        "split": result["split"] or "",
        "seed of the damage": str(result.get("seed", "")),
        "without Gaussian noise": ", ".join(result.get("no_gaussian", [])),
        "tiles": f"{' x '.join(map(str, result['tile']))} pixels, overlap {result['overlap']}, {result['precision']}",
        "device": result["device"],
        "versions": ", ".join(f"{key} {value}" for key, value in result["versions"].items()),
    }
    rows = [[page.cell(key), f'<td class="words">{escape(value)}</td>'] for key, value in facts.items() if value]
    text = _METHODS[result["protocol"]] + ("" if result["protocol"] == "subsets" else f" {_BENCHMARK}")
    more = (
        "ECE: 15 bins of the calibrated probability of the winning class (Guo et al. 2017); the figure at the top is "
        "that of all cases together. Average, Best and Last are mean, largest and smallest mIoU of all cases."
    )
    body = f"<p>{escape(text)}</p><p>{escape(more)}</p>{page.table([], rows)}"
    return page.section("How it was measured", body)

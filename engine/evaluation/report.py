# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of an evaluation: one page of HTML that needs nothing else, made from the result alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from . import charts

Result = Mapping[str, Any]
Row = Sequence[str]

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
_STYLE = """
:root{color-scheme:light;--ink:#1f2933;--soft:#616e7c;--line:#e4e7eb;--blue:#2166ac}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:32px 24px 64px;color:var(--ink);background:#fff;
font:15px/1.5 system-ui,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:40px 0 12px;padding-bottom:6px;
border-bottom:1px solid var(--line)}h3{font-size:15px;margin:20px 0 8px}
p{margin:8px 0;max-width:80ch}.soft,caption{color:var(--soft)}
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}
.card{border:1px solid var(--line);border-radius:8px;padding:10px 16px;min-width:132px}
.card b{display:block;font-size:24px;font-weight:600}.card span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:8px 0}
th,td{padding:4px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{font-weight:600;color:var(--soft);vertical-align:bottom}th:first-child,td:first-child{text-align:left}
td.none{color:#9aa5b1}td.words{text-align:left;white-space:normal;overflow-wrap:anywhere}.chip{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:8px;
border:1px solid rgba(0,0,0,.15);vertical-align:-1px}
.warn{background:#fff8e6;border-left:4px solid #e0a100;padding:8px 14px;margin:8px 0;max-width:84ch}
svg{max-width:100%;height:auto;display:block;margin:8px 0 16px}svg text{font-size:12px;fill:var(--ink)}
svg text.axis{fill:var(--soft)}svg .cell{stroke:var(--line)}svg .track{fill:#f0f3f7}svg .bar{fill:var(--blue)}
svg .share{fill:#9fb3c8}svg .ideal{stroke:#d64545;stroke-dasharray:5 4;stroke-width:1.5}
svg .whisker{stroke:#1f2933;stroke-width:1.5;fill:none}svg .mapped{stroke:#e0a100;stroke-width:3}
.two{display:flex;flex-wrap:wrap;gap:32px;align-items:flex-start}details{margin:12px 0}summary{cursor:pointer}
@media print{body{padding:0}h2{break-after:avoid}svg,tr{break-inside:avoid}}
"""


def render(result: Result) -> str:
    """Return the page for a `result` of `evaluate`; it loads nothing and runs no script."""
    name = result["checkpoint"]["name"] or result["checkpoint"]["path"]
    title = f"Evaluation of {name}"
    sections = [_head(result, title), _warnings(result), _cases(result), _aggregates(result), _classes(result)]
    sections += [_matrices(result), _calibration(result), _areas(result), _method(result)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


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
    shown = [f'<div class="card"><b>{value:.3f}</b><span>{escape(label)}</span></div>' for label, value in cards]
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="soft">{escape(_TITLES[result["protocol"]])}; on {escape(result["measured_on"])}</p></header>'
        f'<div class="cards">{"".join(shown)}</div>'
    )


def _warnings(result: Result) -> str:
    return "".join(f'<div class="warn">{escape(text)}</div>' for text in result["warnings"])


def _cases(result: Result) -> str:
    """Return bars and the table of all cases."""
    cases = result["cases"]
    chart = charts.bars([(case_name(case), case["miou"]) for case in cases], "mIoU of each case")
    header = ["case", "mIoU", "F1", "OA", "kappa", "ECE", "pixels"]
    rows = [
        [
            _cell(case_name(case)),
            *(_number(case[key]) for key in ("miou", "f1", "oa", "kappa", "ece")),
            _cell(f"{case['pixels']:,}"),
        ]
        for case in cases
    ]
    return f"<section><h2>mIoU by case</h2>{chart}{_table(header, rows)}</section>"


def _aggregates(result: Result) -> str:
    """Return the aggregates of EMM and RMM."""
    if result["protocol"] not in ("emm", "rmm"):
        return ""
    rates = list(result["aggregates"][0]["expected"])
    counts = range(len(result["aggregates"][0]["by_damaged"]))
    header = ["level", "average", *(f"E({rate})" for rate in rates), "best", "last", "retention"]
    header += [f"{count} damaged" for count in counts]
    rows = [
        [_cell("all zeros" if item["level"] is None else str(item["level"])), _number(item["average"])]
        + [_number(item["expected"][rate]) for rate in rates]
        + [_number(item[key]) for key in ("best", "last", "retention")]
        + [_number(value) for value in item["by_damaged"]]
        for item in result["aggregates"]
    ]
    return f"<section><h2>mIoU summed up</h2>{_table(header, rows)}</section>"


def _classes(result: Result) -> str:
    """Return the table of IoU by class and case."""
    header = ["case", *(item["name"] for item in result["classes"])]
    rows = [[_cell(case_name(case)), *map(_shaded, case["iou"])] for case in result["cases"]]
    return f"<section><h2>IoU by class</h2>{_table(header, rows)}</section>"


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
                _class_cell(item),
                _cell(f"{reference:,}"),
                _number(hits / mapped if mapped else None),
                _number(hits / reference if reference else None),
                _number(case["iou"][index]),
            ]
        )
    return _table(["class", "labelled", "user's accuracy", "producer's accuracy", "IoU"], rows)


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
    header = ["class", f"mapped ({name})", f"estimated ({name})", "95 % interval"]
    # An area of 0 that only means that nothing was labelled so would look like a certainty.
    labelled = [item for item, given in zip(areas["classes"], result["classes"]) if given["labelled"]]
    rows = []
    for item, given in zip(areas["classes"], result["classes"]):
        estimate = (f"{item['area_m2'] / unit:,.2f}", f"{item['low_m2'] / unit:,.2f} to {item['high_m2'] / unit:,.2f}")
        found = map(_cell, estimate) if given["labelled"] else [_number(None)] * 2
        rows.append([_class_cell(item), _cell(f"{item['mapped_m2'] / unit:,.2f}"), *found])
    text = (
        f"From the confusion matrix of {' + '.join(areas['available'])}, weighted by the mapped areas (Olofsson et al. "
        f"2014; {areas['design']}). Overall accuracy by area: {areas['oa']:.3f} ± {areas['oa_margin']:.3f}. In the "
        "chart: bar and whiskers, the estimate and its interval; yellow mark, the area in the map."
    )
    chart = charts.intervals(labelled, unit, f"Estimated areas in {name}")
    return f'<section><h2>Areas</h2><p class="soft">{escape(text)}</p>{chart}{_table(header, rows)}</section>'


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
    rows = [[_cell(key), f'<td class="words">{escape(value)}</td>'] for key, value in facts.items() if value]
    text = _METHODS[result["protocol"]] + ("" if result["protocol"] == "subsets" else f" {_BENCHMARK}")
    more = (
        "ECE: 15 bins of the calibrated probability of the winning class (Guo et al. 2017); the figure at the top is "
        "that of all cases together. Average, Best and Last are mean, largest and smallest mIoU of all cases."
    )
    return (
        f"<section><h2>How it was measured</h2><p>{escape(text)}</p><p>{escape(more)}</p>{_table([], rows)}</section>"
    )


def _table(header: Sequence[str], rows: Iterable[Row]) -> str:
    """Return a table; `rows` are of cells that are HTML already."""
    head = f"<thead><tr>{''.join(f'<th>{escape(text)}</th>' for text in header)}</tr></thead>" if header else ""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _number(value: float | None) -> str:
    return '<td class="none">none</td>' if value is None else f"<td>{value:.3f}</td>"


def _shaded(value: float | None) -> str:
    if value is None:
        return _number(None)
    return f'<td style="background:{charts.shade(value)};color:{charts.ink(value)}">{value:.3f}</td>'


def _class_cell(item: Result) -> str:
    return f'<td><span class="chip" style="background:{escape(item["color"])}"></span>{escape(item["name"])}</td>'

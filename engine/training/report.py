# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a fine-tuning: one HTML page that needs no other file, its pictures drawn as SVG."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from html import escape
from typing import Any

from ..errors import disk_error
from ..events import Reporter

# Told apart by most eyes (Okabe and Ito 2008).
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f", "#000000")
_SIDES = {"training": "#a6cee3", "validation": "#e69f00", "gap": "#eeeeee", "test": "#b2df8a"}
_WIDTH, _HEIGHT, _EDGE = 640, 260, 44
_STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; } th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
svg { display: block; margin: .6em 0; } svg text { font-size: 11px; }
.key { display: inline-block; margin-right: 1.2em; } .key i { display: inline-block; width: .9em; height: .9em; }
.key i { margin-right: .4em; vertical-align: -.1em; }
figure { display: inline-block; margin: 0 1em .6em 0; } figcaption { font-size: 13px; color: #555; }
img { width: 220px; image-rendering: pixelated; border: 1px solid #bbb; display: block; }
"""


def write_report(path: str, result: dict[str, Any], pictures: str, reporter: Reporter) -> None:
    """Write the report of a fine-tuning.

    Args:
        path: the HTML file; replaced if it exists.
        result: what `finetune` returns.
        pictures: maps before and after, as rich text (`pictures.Gallery`).
        reporter: told where it lies; its warnings stand in the report.

    Raises:
        LacunaError: `disk-full`, `not-permitted` or `file-error`.
    """
    page = render(result, pictures, reporter.warnings)
    part = path + ".part"
    try:
        with open(part, "w", encoding="utf-8") as stream:
            stream.write(page)
        os.replace(part, path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise disk_error(problem, path) from None
    reporter.info(f"Wrote {path}.")


def render(result: dict[str, Any], pictures: str, warnings: Sequence[str]) -> str:
    """Return the page as text; other arguments as for `write_report`."""
    plan, name = result["plan"], os.path.basename(result["checkpoint"])
    sections = [
        f"<h1>{escape(name)}</h1>",
        f"<p>Mean mIoU over the scenarios <b>{result['miou']:.3f}</b>, before {result['miou_before']:.3f}, on "
        f"{escape(result['scores_on'])}. Best epoch {result['best_epoch']} of {result['epochs']}; "
        f"method {plan['method']}, {plan['weights']['trained']:,} of {plan['weights']['all']:,} weights trained.</p>",
        *(f"<p>&#9888; {escape(text)}</p>" for text in warnings),
        "<h2>By scenario</h2>",
        _scenario_bars(result),
        "<h2>By class, all modalities</h2>",
        _class_bars(result),
        "<h2>Maps</h2>",
        pictures,
        "<h2>Training</h2>",
        _curves(result["history"]),
        "<h2>How often each scenario was trained</h2>",
        _probabilities(plan["strategy"]),
        "<h2>Where was learned and where measured</h2>",
        _split(plan["regions"]),
        _pixels(plan["pixels"]),
        f"<p>Made from the checkpoint with SHA-256 {result['parent']}.</p>",
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(name)}</title><style>{_STYLE}</style>'
    return head + "\n".join(sections) + "</html>\n"


def _scenario_bars(result: dict[str, Any]) -> str:
    before = {tuple(item["available"]): item["miou"] for item in result["before"]}
    rows = [
        (" + ".join(item["available"]), [before.get(tuple(item["available"])), item["miou"]])
        for item in result["after"]
    ]
    return _bars(rows, ("before", "after"))


def _class_bars(result: dict[str, Any]) -> str:
    """Return the IoU of each class in the scenario with most modalities, before and after."""
    if not result["before"] or not result["after"]:
        return ""
    before, after = result["before"][-1]["iou"], result["after"][-1]["iou"]
    rows = [(item["name"], list(pair)) for item, *pair in zip(result["classes"], before, after)]
    return _bars(rows, ("before", "after"))


def _probabilities(strategy: dict[str, Any]) -> str:
    own = "<p>The network draws further scenarios in its own objective.</p>" if strategy["own_draws"] else ""
    rows = [
        (" + ".join(scenario), [value]) for scenario, value in zip(strategy["scenarios"], strategy["probabilities"])
    ]
    return f"<p>Strategy: {escape(strategy['name'])}.</p>{own}{_bars(rows, ('probability',))}"


def _bars(rows: Sequence[tuple[str, list[float | None]]], names: Sequence[str]) -> str:
    """Return horizontal bars, one group a row, of numbers from 0 to 1."""
    thick, left, wide = 13, 230, 330
    step = thick * len(names) + 9
    drawn = []
    for index, (label, values) in enumerate(rows):
        top = index * step + 4
        drawn.append(f'<text x="{left - 8}" y="{top + step / 2}" text-anchor="end">{escape(label)}</text>')
        for place, value in enumerate(values):
            y = top + place * thick
            text = "none" if value is None else f"{value:.3f}"
            length = wide * (value or 0.0)
            color = _COLORS[place % len(_COLORS)]
            drawn.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{thick - 2}" fill="{color}"/>')
            drawn.append(f'<text x="{left + length + 5:.1f}" y="{y + thick - 4}">{text}</text>')
    return _key(names) + _svg(_WIDTH, step * len(rows) + 8, drawn)


def _curves(history: Sequence[dict[str, Any]]) -> str:
    """Return the loss, and the validation mIoU of every scenario, by epoch."""
    loss = [[(entry["epoch"], entry["loss"]) for entry in history]]
    lines: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for item in entry.get("scenarios", ()):
            lines.setdefault(" + ".join(item["available"]), []).append((entry["epoch"], item["miou"]))
    return (
        f"<p>Loss</p>{_plot(loss)}<p>Validation mIoU of each scenario</p>"
        f"{_key(list(lines))}{_plot(list(lines.values()), 1.0)}"
    )


def _plot(lines: Sequence[Sequence[tuple[int, float]]], top: float | None = None) -> str:
    """Return lines of points (epoch, value) in one frame, from 0 to `top` or to the largest value."""
    points = [point for line in lines for point in line]
    if not points:
        return ""
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    top = top or max(y for _, y in points) or 1.0

    def place(x: float, y: float) -> str:
        across = (x - first) / max(last - first, 1)
        return f"{_EDGE + across * (_WIDTH - 2 * _EDGE):.1f},{_HEIGHT - _EDGE - y / top * (_HEIGHT - 2 * _EDGE):.1f}"

    frame = f'x="{_EDGE}" y="{_EDGE}" width="{_WIDTH - 2 * _EDGE}" height="{_HEIGHT - 2 * _EDGE}"'
    drawn = [
        f'<rect {frame} fill="none" stroke="#bbb"/>',
        f'<text x="{_EDGE - 5}" y="{_EDGE + 4}" text-anchor="end">{top:.3g}</text>',
        f'<text x="{_EDGE - 5}" y="{_HEIGHT - _EDGE}" text-anchor="end">0</text>',
        f'<text x="{_EDGE}" y="{_HEIGHT - _EDGE + 16}">epoch {first}</text>',
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - _EDGE + 16}" text-anchor="end">{last}</text>',
    ]
    for index, line in enumerate(lines):
        path = " ".join(place(x, y) for x, y in line)
        color = _COLORS[index % len(_COLORS)]
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
    return _svg(_WIDTH, _HEIGHT, drawn)


def _split(regions: Sequence[dict[str, Any]]) -> str:
    """Return a map of each scene: training, validation, gap and test."""
    shown = []
    for scene in dict.fromkeys(region["scene"] for region in regions):
        own = [region for region in regions if region["scene"] == scene]
        rings = [ring for region in own for polygon in region["geometry"]["coordinates"] for ring in polygon]
        xs, ys = ([point[axis] for ring in rings for point in ring] for axis in (0, 1))
        west, north, size = min(xs), max(ys), max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
        scale = 300 / size
        drawn = []
        for region in own:
            path = " ".join(
                "M" + " L".join(f"{(x - west) * scale:.1f} {(north - y) * scale:.1f}" for x, y in ring) + "Z"
                for polygon in region["geometry"]["coordinates"]
                for ring in polygon
            )
            drawn.append(f'<path d="{path}" fill="{_SIDES[region["side"]]}" fill-rule="evenodd" stroke="#888"/>')
        height = (max(ys) - min(ys)) * scale
        shown.append(f"<p>{escape(scene)}</p>{_svg((max(xs) - west) * scale, height, drawn)}")
    return _key(list(_SIDES), list(_SIDES.values())) + "".join(shown)


def _pixels(pixels: dict[str, Any]) -> str:
    """Return the table of labelled pixels by class and side."""
    sides = [side for side in ("training", "validation", "test") if any(pixels[side].values())]
    head = "".join(f"<th>{side}</th>" for side in sides)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{pixels[side][name]:,}</td>' for side in sides)}</tr>"
        for name in pixels["training"]
    )
    return f"<table><tr><th>labelled pixels</th>{head}</tr>{rows}</table><p>In the gap: {pixels['gap']:,}.</p>"


def _key(names: Sequence[str], colors: Sequence[str] = _COLORS) -> str:
    spans = (
        f'<span class="key"><i style="background:{colors[index % len(colors)]}"></i>{escape(name)}</span>'
        for index, name in enumerate(names)
    )
    return f"<p>{''.join(spans)}</p>"


def _svg(width: float, height: float, drawn: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{"".join(drawn)}</svg>'

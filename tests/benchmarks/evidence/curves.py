# SPDX-License-Identifier: GPL-2.0-or-later
"""The learning curves as SVG: for each data set mean mIoU over the scenarios by the amount of labels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .protocol import AMOUNTS, DATASETS, METHODS

_COLOURS = {
    **{"lacuna": "#2166ac", "network": "#92c5de", "detail": "#5aae61"},
    **{"scratch": "#762a83", "forest": "#b2182b", "boosting": "#f4a582"},
}
# A panel, from the left and top of one to those of the next; within it the axes.
_WIDTH, _HEIGHT, _COLUMNS = 270, 250, 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 256.0, 28.0, 206.0
# Methods stand side by side at an amount, so that their bars do not cover one another.
_ASIDE = 5.0

Records = Sequence[Mapping[str, Any]]


def picture(records: Records) -> str:
    """Return the panels of all data sets with results, and what the colours mean.

    Points are means over the seeds; where there are several, bars reach one deviation up and down.
    """
    names = [name for name in DATASETS if any(item["dataset"] == name for item in records)]
    body = []
    for place, name in enumerate(names):
        row, column = divmod(place, _COLUMNS)
        body.append(f'<g transform="translate({column * _WIDTH} {row * _HEIGHT})">')
        body.append(f'<text x="{_LEFT:.0f}" y="16" font-weight="bold">{name}</text>')
        body += _panel([item for item in records if item["dataset"] == name])
        body.append("</g>")
    rows = -(-len(names) // _COLUMNS)
    body += _legend(rows * _HEIGHT + 16)
    size = f'width="{_COLUMNS * _WIDTH}" height="{rows * _HEIGHT + 36}"'
    style = 'font-family="sans-serif" font-size="11" fill="#1f2933"'
    paper = f'<rect {size} fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{paper}' + ("".join(body) + "</svg>\n")


def _legend(y: int) -> Iterable[str]:
    for place, method in enumerate(METHODS):
        x = int(_LEFT) + 120 * place
        yield f'<line x1="{x}" x2="{x + 20}" y1="{y}" y2="{y}" {_stroke(method)}/>'
        yield f'<text x="{x + 26}" y="{y + 4}">{method}</text>'


def _panel(own: Records) -> Iterable[str]:
    """Yield the axes and the curves of one data set."""
    order = sorted(AMOUNTS, key=lambda amount: amount or math.inf)
    points = {method: list(_points(own, method, order)) for method in METHODS}
    highest = max(mean + spread for items in points.values() for _, mean, spread in items)
    most = min(math.ceil(10 * highest) / 10, 1.0)
    yield f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}" fill="none" stroke="#9aa5b1"/>'
    for share in (0, 0.5, 1):
        y, percent = f"{_height(share) + 4:.0f}", f"{100 * most * share:.3g}"
        yield f'<text x="{_LEFT - 5:.0f}" y="{y}" text-anchor="end">{percent}</text>'
    for index, amount in enumerate(order):
        x = f"{_place(index, len(order)):.0f}"
        yield f'<text x="{x}" y="{_BOTTOM + 15:.0f}" text-anchor="middle">{amount or "all"}</text>'
    middle = (_LEFT + _RIGHT) / 2
    yield f'<text x="{middle:.0f}" y="{_BOTTOM + 30:.0f}" text-anchor="middle">squares a class; mIoU in %</text>'
    for number, method in enumerate(METHODS):
        aside = _ASIDE * (number - (len(METHODS) - 1) / 2)
        placed = [(_place(at, len(order)) + aside, mean / most, spread / most) for at, mean, spread in points[method]]
        yield from _curve(method, placed)


def _points(own: Records, method: str, order: Sequence[int | None]) -> Iterable[tuple[int, float, float]]:
    """Yield for each measured amount its number, the mean over the seeds and their deviation."""
    for index, amount in enumerate(order):
        found = [item["miou"] for item in own if item["method"] == method and item["amount"] == amount]
        if found:
            yield index, statistics.mean(found), statistics.stdev(found) if len(found) > 1 else 0.0


def _curve(method: str, placed: Sequence[tuple[float, float, float]]) -> Iterable[str]:
    """Yield line, bars and points of a method from x, and mean and deviation as shares of the axis."""
    if not placed:
        return
    line = " ".join(f"{x:.1f},{_height(mean):.1f}" for x, mean, _ in placed)
    yield f'<polyline points="{line}" fill="none" {_stroke(method)}/>'
    for x, mean, spread in placed:
        if spread > 0:
            low, high = _height(max(mean - spread, 0)), _height(min(mean + spread, 1))
            yield f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" fill="none" stroke="{_COLOURS[method]}" stroke-width="1"/>'
        yield f'<circle cx="{x:.1f}" cy="{_height(mean):.1f}" r="3" fill="{_COLOURS[method]}"/>'


def _place(index: int, count: int) -> float:
    """Return x of an amount: there is room for the methods beside it."""
    return _LEFT + 22 + index * (_RIGHT - _LEFT - 40) / (count - 1)


def _height(share: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * share


def _stroke(method: str) -> str:
    return f'stroke="{_COLOURS[method]}" stroke-width="2"'

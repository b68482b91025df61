# SPDX-License-Identifier: GPL-2.0-or-later
"""Charts as SVG text for a page of HTML: bars, lines, confusion matrix, reliability, intervals; all text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..palette import SERIES

_BAR, _ROW, _VALUE = 420, 24, 60
# Width of a letter, and what there is at least and most for the names beside bars.
_LETTER, _LEAST, _MOST = 6.6, 90, 520
_CELL, _LARGEST_TEXT = 54, 16
_PLOT, _EDGE = 300, 44
_THIN, _WIDE, _HIGH = 13, 560, 180


def bars(rows: Sequence[tuple[str, float]], title: str) -> str:
    """Return horizontal bars from 0 to 1, one for each (label, value)."""
    body, left = [], _margin(label for label, _ in rows)
    for index, (label, value) in enumerate(rows):
        top, middle = index * _ROW, index * _ROW + _ROW // 2
        body.append(
            _text(left - 8, middle, label, anchor="end")
            + f'<rect class="track" x="{left}" y="{top + 4}" width="{_BAR}" height="{_ROW - 8}" rx="2"/>'
            + f'<rect class="bar" x="{left}" y="{top + 4}" width="{_BAR * value:.1f}" height="{_ROW - 8}" rx="2"/>'
            + _text(left + _BAR + 8, middle, f"{value:.3f}")
        )
    return _svg(left + _BAR + _VALUE, len(rows) * _ROW, title, "".join(body))


def grouped_bars(rows: Sequence[tuple[str, Sequence[float | None]]], title: str) -> str:
    """Return bars from 0 to 1, for each (label, values) a group of them in the colours of `palette.SERIES`."""
    body, left, step = [], _margin(label for label, _ in rows), 0
    for index, (label, values) in enumerate(rows):
        step = _THIN * len(values) + 9
        top = index * step + 4
        body.append(_text(left - 8, top + _THIN * len(values) / 2, label, anchor="end"))
        for place, value in enumerate(values):
            y, length = top + place * _THIN, _BAR * (value or 0.0)
            fill = SERIES[place % len(SERIES)]
            body.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{_THIN - 2}" fill="{fill}"/>')
            body.append(_text(left + length + 6, y + _THIN / 2 - 1, "none" if value is None else f"{value:.3f}"))
    return _svg(left + _BAR + _VALUE, step * len(rows) + 8, title, "".join(body))


def lines(curves: Sequence[Sequence[tuple[int, float]]], title: str, unit: str, top: float | None = None) -> str:
    """Return curves of points (x, value) in one frame, in the colours of `palette.SERIES`; nothing for no points.

    Args:
        curves: the points of each.
        title: of the chart.
        unit: what x counts, such as epoch.
        top: value at the upper edge; default: the largest.
    """
    points = [point for curve in curves for point in curve]
    if not points:
        return ""
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    most = top or max(y for _, y in points) or 1.0
    right, bottom = _EDGE + _WIDE, _EDGE / 2 + _HIGH
    body = [f'<rect class="frame" x="{_EDGE}" y="{_EDGE / 2}" width="{_WIDE}" height="{_HIGH}"/>']
    body += [_text(_EDGE - 6, _EDGE / 2, f"{most:.3g}", anchor="end"), _text(_EDGE - 6, bottom, "0", anchor="end")]
    body += [_text(_EDGE, bottom + 14, f"{unit} {first}"), _text(right, bottom + 14, f"{last}", anchor="end")]
    for index, curve in enumerate(curves):
        places = (
            f"{_EDGE + (x - first) / max(last - first, 1) * _WIDE:.1f},{bottom - y / most * _HIGH:.1f}"
            for x, y in curve
        )
        body.append(f'<polyline class="line" points="{" ".join(places)}" stroke="{SERIES[index % len(SERIES)]}"/>')
    return _svg(right + 16, bottom + 28, title, "".join(body))


def regions(shapes: Sequence[tuple[str, Sequence[Any]]], title: str) -> str:
    """Return a map of areas, one for each (colour, coordinates of a GeoJSON MultiPolygon), no side longer than 300."""
    rings = [ring for _, polygons in shapes for polygon in polygons for ring in polygon]
    xs, ys = ([point[axis] for ring in rings for point in ring] for axis in (0, 1))
    west, north = min(xs), max(ys)
    scale = _PLOT / (max(max(xs) - west, north - min(ys)) or 1.0)
    body = []
    for fill, polygons in shapes:
        path = " ".join(
            "M" + " L".join(f"{(x - west) * scale:.1f} {(north - y) * scale:.1f}" for x, y in ring) + "Z"
            for polygon in polygons
            for ring in polygon
        )
        body.append(f'<path class="region" d="{path}" fill="{fill}"/>')
    return _svg((max(xs) - west) * scale, (north - min(ys)) * scale, title, "".join(body))


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str], title: str) -> str:
    """Return a confusion matrix: shade and per cent by row, so that each reference class sums to 100; counts on hover.

    Args:
        counts: (K, K); row: class in the reference, column: class in the map.
        names: of the classes.
        title: of the chart.
    """
    size = len(names)
    cell = _CELL if size <= _LARGEST_TEXT else max(10, _CELL * _LARGEST_TEXT // size)
    left = _margin(map(_short, names)) + 24
    top = 0.66 * left + 14
    body = [_text(left + size * cell / 2, 10, "map", anchor="middle", kind="axis")]
    for row, name in enumerate(names):
        total = sum(counts[row])
        body.append(_text(left - 8, top + row * cell + cell / 2, _short(name), anchor="end"))
        place = f"translate({left + row * cell + cell / 2:.1f} {top - 8}) rotate(-40)"
        body.append(f'<g transform="{place}">{_text(0, 0, _short(name))}</g>')
        for column, count in enumerate(counts[row]):
            share = count / total if total else 0.0
            hint = f"{name} classified as {names[column]}: {count} of {total}"
            shown = f"{100 * share:.0f}" if size <= _LARGEST_TEXT and count else ""
            body.append(_cell(left + column * cell, top + row * cell, cell, share, shown, hint))
    body.append(f'<g transform="translate(14 {top + size * cell / 2:.1f}) rotate(-90)">')
    body.append(_text(0, 0, "reference", anchor="middle", kind="axis") + "</g>")
    return _svg(left + size * cell + 90, top + size * cell + 8, title, "".join(body))


def reliability(bins: Mapping[str, Sequence[Any]], title: str) -> str:
    """Return the reliability diagram of `Reliability.to_dict`: accuracy of each bin of confidence, and its share."""
    pixels = bins["pixels"]
    width, most = _PLOT / len(pixels), max(*pixels, 1)
    bottom = _EDGE / 2 + _PLOT
    body = [f'<rect class="track" x="{_EDGE}" y="{_EDGE / 2}" width="{_PLOT}" height="{_PLOT}"/>']
    for index, (count, confidence, accuracy) in enumerate(zip(pixels, bins["confidence"], bins["accuracy"])):
        if not count:
            continue
        left, height, share = _EDGE + index * width, _PLOT * accuracy, 60 * count / most
        hint = f"confidence {confidence:.3f}, accuracy {accuracy:.3f}, {count} pixels"
        body.append(
            f'<g><title>{escape(hint)}</title><rect class="bar" x="{left + 1:.1f}" y="{bottom - height:.1f}" '
            f'width="{width - 2:.1f}" height="{height:.1f}"/>'
            f'<rect class="share" x="{left + 1:.1f}" y="{bottom + 34:.1f}" width="{width - 2:.1f}" '
            f'height="{share:.1f}"/></g>'
        )
    body.append(f'<line class="ideal" x1="{_EDGE}" y1="{bottom}" x2="{_EDGE + _PLOT}" y2="{_EDGE / 2}"/>')
    for tick in (0, 0.5, 1):
        body.append(_text(_EDGE - 6, bottom - _PLOT * tick, f"{tick:g}", anchor="end"))
        body.append(_text(_EDGE + _PLOT * tick, bottom + 12, f"{tick:g}", anchor="middle"))
    body.append(_text(_EDGE + _PLOT / 2, bottom + 26, "confidence; below: share of pixels", "middle", "axis"))
    body.append(f'<g transform="translate(10 {bottom - _PLOT / 2}) rotate(-90)">')
    body.append(_text(0, 0, "accuracy", anchor="middle", kind="axis") + "</g>")
    return _svg(_EDGE + _PLOT + 16, bottom + 100, title, "".join(body))


def intervals(rows: Sequence[Mapping[str, Any]], unit: float, title: str) -> str:
    """Return for each class a bar of its estimated area with its interval, and a mark at its mapped area.

    Args:
        rows: the `classes` of area estimates, one or more.
        unit: square metres of the unit that is shown.
        title: of the chart.
    """
    most = max(max(row["high_m2"], row["mapped_m2"]) for row in rows) or 1.0
    body, left = [], _margin(row["name"] for row in rows)
    for index, row in enumerate(rows):
        top, middle = index * _ROW, index * _ROW + _ROW // 2
        low, area, high, mapped = (
            left + _BAR * max(row[key], 0.0) / most for key in ("low_m2", "area_m2", "high_m2", "mapped_m2")
        )
        body.append(
            _text(left - 8, middle, row["name"], anchor="end")
            + f'<rect class="bar" x="{left}" y="{top + 5}" width="{area - left:.1f}" height="{_ROW - 10}"/>'
            + f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10M{high:.1f} '
            f'{middle - 5}v10"/>'
            + f'<path class="mapped" d="M{mapped:.1f} {top + 2}v{_ROW - 4}"/>'
            + _text(left + _BAR + 8, middle, f"{row['area_m2'] / unit:,.2f}")
        )
    return _svg(left + _BAR + 110, len(rows) * _ROW, title, "".join(body))


def shade(share: float) -> str:
    """Return the colour for a share from 0 to 1: white to the blue of the bars."""
    low, high = (255, 255, 255), (33, 102, 172)
    return "#" + "".join(f"{round(a + (b - a) * min(max(share, 0.0), 1.0)):02x}" for a, b in zip(low, high))


def ink(share: float) -> str:
    """Return the colour of text that can be read on `shade(share)`."""
    return "#ffffff" if share > 0.55 else "#1f2933"


def _margin(names: Iterable[str]) -> float:
    """Return the width that names beside bars take."""
    return min(max(_LETTER * max(map(len, names)) + 16, _LEAST), _MOST)


def _cell(x: float, y: float, side: float, share: float, shown: str, hint: str) -> str:
    text = ""
    if shown:
        place = f'x="{x + side / 2:.1f}" y="{y + side / 2:.1f}"'
        text = (
            f'<text {place} text-anchor="middle" dominant-baseline="central" style="fill:{ink(share)}">{shown}</text>'
        )
    return (
        f'<g><title>{escape(hint)}</title><rect class="cell" x="{x}" y="{y}" width="{side}" height="{side}" '
        f'fill="{shade(share)}"/>{text}</g>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "label") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"


def _svg(width: float, height: float, title: str, body: str) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )

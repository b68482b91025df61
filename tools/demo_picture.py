# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of the demonstration: rows of panels with titles, the held-out boundary and a legend of classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # screen pixels for a pixel of the scene
MARGIN, GAP, TITLE, CAPTION, LEGEND = 40, 28, 34, 25, 27  # pixels; the last three are sizes of letters
PAPER, INK, GREY, LINE = "#ffffff", "#16202a", "#5b6875", "#c9d1d9"
NO_CLASS = "#e4e7eb"
NOTE = "Figures are for the part right of the dashed line, which the model has not seen in training."


@dataclass(frozen=True)
class Panel:
    """An image with a title and a line under it; `image` is uint8 (height, width, 3)."""

    title: str
    caption: str
    image: np.ndarray


def stretch(band: np.ndarray, low: float = 2, high: float = 98) -> np.ndarray:
    """Return `band` as uint8, its percentiles `low` and `high` drawn out to black and white."""
    bottom, top = np.nanpercentile(band, [low, high])
    return (255 * np.clip((band - bottom) / max(top - bottom, 1e-6), 0, 1)).astype(np.uint8)


def true_colour_image(bands: np.ndarray) -> np.ndarray:
    """Return red, green, blue of Sentinel-2's twelve bands (12, h, w), brightened by a root as eyes expect."""
    return np.dstack([stretch(np.sqrt(np.maximum(bands[index], 1).astype(float)), 1, 99) for index in (3, 2, 1)])


def radar_image(bands: np.ndarray) -> np.ndarray:
    """Return VV in dB, the first of `bands` (2, h, w), in grey."""
    return np.dstack([stretch(bands[0])] * 3)


def elevation_image(heights: np.ndarray) -> np.ndarray:
    """Return `heights` (h, w) in colours from valley to ridge, shaded by a light from the north-west."""
    steps = np.array([0, 90, 170, 255])
    colours = np.array([[68, 122, 108], [168, 183, 126], [208, 178, 128], [247, 243, 236]])
    level = stretch(heights.astype(float), 0, 100)
    tinted = np.dstack([np.interp(level, steps, colours[:, channel]) for channel in range(3)])
    down, across = np.gradient(heights.astype(float))
    shade = 0.5 + 0.5 * np.tanh((down + across) / 4)
    return np.clip(tinted * (0.62 + 0.5 * shade)[..., None], 0, 255).astype(np.uint8)


def map_image(values: np.ndarray, colours: dict[int, str]) -> np.ndarray:
    """Return the class map `values` (h, w) in `colours` (by value, `#rrggbb`), light grey where there is no class."""
    table = np.tile(_rgb(NO_CLASS), (256, 1))
    for value, colour in colours.items():
        table[value] = _rgb(colour)
    return table[values]


def draw(rows: list[list[Panel]], classes: list[tuple[str, str]], boundary: int, target: Path) -> None:
    """Write the picture: `rows` of panels, a dashed line at column `boundary`, the `classes` (name, colour) below."""
    height, width = (SCALE * side for side in rows[0][0].image.shape[:2])
    head, columns = TITLE + CAPTION + 26, max(map(len, rows))
    size = (
        2 * MARGIN + columns * width + (columns - 1) * GAP,
        2 * MARGIN + len(rows) * (head + height + GAP) + LEGEND + CAPTION + 18,
    )
    canvas = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(canvas)
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            left, top = MARGIN + column * (width + GAP), MARGIN + row * (head + height + GAP)
            pen.text((left, top), panel.title, INK, _font(TITLE))
            pen.text((left, top + TITLE + 8), panel.caption, GREY, _font(CAPTION))
            scaled = Image.fromarray(panel.image).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(scaled, (left, top + head))
            _boundary(pen, left + SCALE * boundary, top + head, height)
    _legend(pen, classes, size[1] - MARGIN - LEGEND - CAPTION - 18)
    pen.text((MARGIN, size[1] - MARGIN - CAPTION), NOTE, GREY, _font(CAPTION))
    canvas.save(target, optimize=True)


def _boundary(pen: ImageDraw.ImageDraw, x: int, top: int, height: int) -> None:
    """Draw a dashed line, white on black so that it shows on any ground, and say which side was held out."""
    pen.line((x, top, x, top + height), "#000000", 4)
    for y in range(top, top + height, 16):
        pen.line((x, y, x, min(y + 9, top + height)), "#ffffff", 4)
    box = pen.textbbox((x + 14, top + height - 34), "held out", _font(20))
    pen.rounded_rectangle((box[0] - 8, box[1] - 6, box[2] + 8, box[3] + 6), 6, "#000000")
    pen.text((x + 14, top + height - 34), "held out", "#ffffff", _font(20))


def _legend(pen: ImageDraw.ImageDraw, classes: list[tuple[str, str]], y: int) -> None:
    """Draw a coloured square and a name for each class, and for pixels without one, from left to right."""
    x = MARGIN
    for name, colour in [*classes, ("no class", NO_CLASS)]:
        pen.rounded_rectangle((x, y, x + LEGEND, y + LEGEND), 4, colour, LINE)
        pen.text((x + LEGEND + 12, y - 2), name, INK, _font(LEGEND))
        x += LEGEND + 12 + round(pen.textlength(name, _font(LEGEND))) + 44


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, so that no font need be installed."""
    return ImageFont.load_default(size)


def _rgb(colour: str) -> np.ndarray:
    """Return `#rrggbb` as three uint8."""
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)

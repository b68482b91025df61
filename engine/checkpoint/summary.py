# SPDX-License-Identifier: GPL-2.0-or-later
"""A card in words, for a terminal. Runs on Python 3.9 with the standard library alone."""

from __future__ import annotations

import json
from typing import Any

from .card import Card, Modality


def card_in_words(card: Card, path: str, checksum: str) -> str:
    """Return what `lacuna describe` prints of the checkpoint at `path`, whose SHA-256 is `checksum`."""
    parts = [
        [card.name or path, *_indent([card.description] if card.description else [])],
        ["Modalities", *_indent(map(_modality, card.modalities)), f"  The map follows the grid of {card.reference}."],
        ["Classes", *_indent(f"{item.value:5d}  {item.color}  {item.name}" for item in card.classes)],
        [_scores_title(card), *_indent(_scores(card))],
        ["Model", *_indent(_model(card))],
        ["Training", *_indent(f"{key}: {_value(value)}" for key, value in card.training.items())],
        ["Origin", *_indent(_origin(card, path, checksum))],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if len(lines) > 1 or lines is parts[0])


def _indent(lines: Any) -> list[str]:
    return [f"  {line}" for line in lines]


def _modality(item: Modality) -> str:
    units = f", in {item.units}" if item.units else ""
    size = f", {_range(item.resolution)}" if item.resolution else ""
    need = "required" if item.required else "may be missing"
    return f"{item.name}: {', '.join(item.bands)}{units}{size} ({need})"


def _scores_title(card: Card) -> str:
    return f"mIoU for each scenario, measured on {card.scores_on}" if card.scores_on else "mIoU for each scenario"


def _scores(card: Card) -> list[str]:
    """Return one line for each scenario that the model supports."""
    if not card.scores:
        return ["not measured"]
    named = [(" + ".join(scenario), card.miou(scenario)) for scenario in card.supported()]
    width = max(len(name) for name, _ in named)
    return [f"{name:{width}}  {'not measured' if miou is None else f'{miou:.3f}'}" for name, miou in named]


def _model(card: Card) -> list[str]:
    config = ", ".join(f"{key} {_value(value)}" for key, value in card.architecture["config"].items())
    lines = [f"architecture: {card.architecture['name']}" + (f" ({config})" if config else "")]
    if card.resolution:
        lines.append(f"trained from {_range(card.resolution)}")
    return [*lines, f"tile: {card.tile[0]} x {card.tile[1]} pixels, margin {card.margin}, stride {card.stride}"]


def _origin(card: Card, path: str, checksum: str) -> list[str]:
    named = {
        "file": path,
        "licence": card.licence or "not stated",
        "credits": card.credits,
        "created": card.created,
        "parents (SHA-256)": ", ".join(card.parents),
        "SHA-256": checksum,
    }
    return [f"{name}: {value}" for name, value in named.items() if value]


def _range(resolution: list[float]) -> str:
    low, high = resolution
    return f"{low:g} m" if low == high else f"{low:g} to {high:g} m"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a card says, in words: the whole of it as rich text, and the accuracy to expect with the inputs at hand."""

from __future__ import annotations

from html import escape
from typing import Optional

from ..compat import tr
from ..engine.checkpoint.card import Card, Modality
from .forms import chip


def card_html(card: Card, path: str) -> str:
    """Return what `card`, read from `path`, says: purpose, inputs, classes, accuracy, origin."""
    parts = [f"<h3>{escape(card.name or card.architecture['name'])}</h3>", f"<p>{escape(card.description)}</p>"]
    rows = [(tr("Architecture"), escape(card.architecture["name"])), (tr("File"), escape(path))]
    if card.resolution:
        low, high = (f"{value:g}" for value in (card.resolution[0], card.resolution[-1]))
        rows.append((tr("Trained on pixels of"), f"{low} m" if low == high else f"{low} to {high} m"))
    for title, text in ((tr("Licence"), card.licence), (tr("Credits"), card.credits), (tr("Made"), card.created)):
        if text:
            rows.append((title, escape(text)))
    parts.append(_table(rows))
    parts.append(f"<h4>{tr('Modalities')}</h4>")
    parts.append(_table([(escape(item.name), _modality_words(item, card)) for item in card.modalities]))
    parts.append(f"<h4>{tr('Classes')}</h4><p>{classes_html(card, numbers=True)}</p>")
    if card.scores:
        on = f" ({escape(card.scores_on)})" if card.scores_on else ""
        parts.append(f"<h4>{tr('Measured accuracy')}{on}</h4>")
        scores = [(" + ".join(item["available"]), f"mIoU {item['miou']:.3f}") for item in card.scores if "miou" in item]
        parts.append(_table([(escape(name), score) for name, score in scores]))
    return "".join(parts)


def classes_html(card: Card, numbers: bool = False) -> str:
    """Return the classes as coloured chips, with their values in the raster if `numbers`."""
    names = ((f"{item.value} {item.name}" if numbers else item.name, item.color) for item in card.classes)
    return " ".join(chip(escape(name), color) for name, color in names)


def score_words(card: Card, bound: list[str], partial: list[str]) -> str:
    """Return the expected mIoU in words.

    Args:
        card: of the checkpoint.
        bound: modalities with a raster.
        partial: those of them that cover only a part of the area.
    """
    current = card.effective(tuple(bound))
    if current is None:
        return tr("This checkpoint cannot run with these modalities alone.")
    miou = card.miou(current)
    if miou is None:
        return tr("The accuracy with {} was not measured.").format(" + ".join(current))
    words = [tr("mIoU {} with these").format(_number(miou))]
    for name in (item for item in card.names if item not in bound):
        more = card.miou(card.effective((*bound, name)) or ())
        if more is not None:
            words.append(tr("{} with {}").format(_number(more), name))
    for name in partial:
        less = card.miou(card.effective(tuple(item for item in bound if item != name)) or ())
        if less is not None:
            words.append(tr("{} where {} is missing").format(_number(less), name))
    return ", ".join(words) + "."


def measured_words(card: Card) -> str:
    """Return how accurate a checkpoint was measured to be, with all modalities and with fewer, in one sentence."""
    if not card.scores:
        return tr("Its accuracy was not measured.")
    whole = card.miou(tuple(card.names))
    fewer = sorted(
        (item["miou"], " + ".join(item["available"]))
        for item in card.scores
        if set(item["available"]) != set(card.names)
    )
    words = [] if whole is None else [tr("mIoU {} with all modalities").format(_number(whole))]
    if fewer:
        (low, least), (high, most) = fewer[0], fewer[-1]
        lowest, highest = f"{_number(low)} ({least})", f"{_number(high)} ({most})"
        words.append(lowest if len(fewer) == 1 else tr("{} to {} with fewer").format(lowest, highest))
    on = tr(", measured on {}").format(card.scores_on) if card.scores_on else ""
    return f"{'; '.join(words)}{on}."


def _modality_words(item: Modality, card: Card) -> str:
    """Return the bands and conditions of a modality in words."""
    words = [", ".join(map(escape, item.bands))]
    if item.units:
        words.append(escape(item.units))
    if item.name == card.reference:
        words.append(tr("its grid is the reference"))
    words.append(tr("required") if item.required else tr("may be missing"))
    return "; ".join(words)


def _table(rows: list[tuple[str, str]]) -> str:
    """Return a table of two columns."""
    cells = (f'<tr><td style="padding-right:8px"><b>{name}</b></td><td>{value}</td></tr>' for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _number(miou: Optional[float]) -> str:
    """Return an mIoU in two digits, or a question mark where none was measured."""
    return "?" if miou is None else f"{miou:.2f}"

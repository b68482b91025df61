# SPDX-License-Identifier: GPL-2.0-or-later
"""Cards as they are stored: JSON values, and the header of a `.safetensors` file. Read without torch, on Python 3.9.

In such a file the card is two strings of the header's metadata: `mlm`, a STAC Machine Learning Model item
(https://github.com/stac-extensions/mlm, v1.5), and `lacuna`, for what that standard has no words for.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from ..errors import LacunaError
from .card import SCHEMA, Card, ClassInfo, Modality
from .faults import card_fault
from .header import metadata_of, parse_json, read_header
from .mlm import from_mlm, to_mlm

# Metadata key of an encoder file: weights of an encoder alone, for `lacuna train --encoder-weights`.
ENCODER_KEY = "lacuna_encoder"
# Of an adapter file: what a fine-tuning by LoRA adds to a checkpoint.
ADAPTER_KEY = "lacuna_adapter"


def read_card(path: str) -> Card:
    """Return the card of the checkpoint at `path`, reading only its header.

    Raises:
        LacunaError: the file is missing, no safetensors, cut short, without a card, of a newer schema or with a bad
            card.
    """
    return card_from_metadata(metadata_of(read_header(path), path), path)


def card_from_dict(values: Any, origin: str = "the card") -> Card:
    """Return the card that JSON `values` hold, checked; keys that are absent take their defaults.

    Raises:
        LacunaError: `bad-card`, saying where in `origin` the fault is.
    """
    if not isinstance(values, dict):
        raise _bad(origin, "it is not a JSON object")
    for key, kind in (("architecture", dict), ("modalities", list), ("classes", list)):
        if not values.get(key):
            raise _bad(origin, f"it has no {key}")
        if not isinstance(values[key], kind):
            raise _bad(origin, f"its {key} are of the wrong kind: {str(values[key])[:80]}")
    try:
        values = dict(values)
        values["modalities"] = [_build_modality(item) for item in values["modalities"]]
        values["classes"] = [ClassInfo(**item) for item in values["classes"]]
        values["architecture"] = {"config": {}, **values["architecture"]}
        values["reference"] = values.get("reference") or values["modalities"][0].name
        known = {item.name for item in fields(Card)}
        card = Card(**{key: value for key, value in values.items() if key in known})
        fault = card_fault(card)
    except (TypeError, ValueError, KeyError, AttributeError) as problem:
        raise _bad(origin, str(problem)) from None
    if fault:
        raise _bad(origin, fault)
    return card


def card_from_metadata(metadata: dict[str, str], origin: str) -> Card:
    """Return the card in a safetensors header.

    Raises:
        LacunaError: `encoder-file`, `adapter-file`, `not-a-checkpoint`, `newer-schema` or `bad-card`.
    """
    _check_kind(metadata, origin)
    try:
        rest, item = parse_json(metadata["lacuna"]), parse_json(metadata["mlm"])
        schema = rest["schema"]
    except (ValueError, KeyError, TypeError) as problem:
        raise _bad(origin, f"its metadata cannot be read ({problem!r})") from None
    if type(schema) is not int or schema < 1:
        raise _bad(origin, f"its schema is {schema!r}, which is no version")
    if schema > SCHEMA:
        raise LacunaError(
            "newer-schema",
            f"{origin} was written by a newer Lacuna: its card has schema {schema}, this one reads up to {SCHEMA}.",
            "Update Lacuna, or ask for a checkpoint of an older schema.",
        )
    try:
        values = from_mlm(rest, item)
    except (KeyError, TypeError, AttributeError, IndexError) as problem:
        raise _bad(origin, f"its metadata is not as expected ({problem!r})") from None
    return card_from_dict(values, origin)


def card_metadata(card: Card) -> dict[str, str]:
    """Return the two strings of a safetensors header, `mlm` and `lacuna`; LacunaError `bad-card` if it is none."""
    try:
        values = json.loads(json.dumps(card.to_dict(), allow_nan=False))
    except (TypeError, ValueError) as problem:
        raise _bad("the new checkpoint", f"it holds what JSON cannot ({problem})") from None
    checked = card_from_dict(values, "the new checkpoint")
    rest = checked.to_dict()
    for item in rest["modalities"]:
        del item["bands"], item["resampling"]
    del rest["classes"]
    return {"mlm": json.dumps(to_mlm(checked), allow_nan=False), "lacuna": json.dumps(rest)}


def _check_kind(metadata: dict[str, str], origin: str) -> None:
    """Raise LacunaError if `metadata` is that of something other than a checkpoint."""
    if ENCODER_KEY in metadata:
        raise LacunaError(
            "encoder-file",
            f"{origin} holds the weights of an encoder alone, not a model with classes.",
            "Train with it (`lacuna train --encoder-weights`), or choose a whole checkpoint.",
        )
    if ADAPTER_KEY in metadata:
        raise LacunaError(
            "adapter-file",
            f"{origin} holds adapters alone, which are of use only together with the checkpoint they belong to.",
            "Choose the checkpoint that was written beside it, in which they are merged.",
        )
    if "lacuna" not in metadata or "mlm" not in metadata:
        raise LacunaError(
            "not-a-checkpoint",
            f"{origin} is a safetensors file, but not a checkpoint of Lacuna: its header has no card.",
            "Choose a checkpoint that Lacuna has written.",
        )


def _bad(origin: str, what: str) -> LacunaError:
    return LacunaError("bad-card", f"{origin} has a card that cannot be used: {what}.", "Get the checkpoint again.")


def _build_modality(values: Any) -> Modality:
    """Return a modality; a scaling that is one step stands for a chain of one."""
    values = dict(values)
    if isinstance(values.get("scaling"), dict):
        values["scaling"] = [values["scaling"]]
    return Modality(**values)

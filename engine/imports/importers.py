# SPDX-License-Identifier: GPL-2.0-or-later
"""Import published weights: of a whole network as a checkpoint, or of an encoder as an encoder file."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.card import Card
from ..checkpoint.card_file import card_from_dict
from ..checkpoint.header import parse_json
from ..checkpoint.store import save, sha256
from ..errors import LacunaError
from ..events import Reporter
from ..jobs import NETWORKS, ImportJob
from ..models.base import SegmentationModel
from ..models.encoders.recognise import recognise
from ..models.registry import architecture, build
from ..runtime.outputs import check_outputs
from ..runtime.versions import library_versions
from .encoder_file import EncoderInfo, save_encoder
from .foreign import read_weights

_UNKNOWN = "unknown"


def import_weights(job: ImportJob, reporter: Reporter) -> dict[str, Any]:
    """Import as `job` asks and write the checkpoint or the encoder file.

    Returns:
        The result: `checkpoint` or `encoder_file` (its path), `architecture` or `encoder` (its name), `parameters`
        (how many numbers), `parents` (SHA-256 of the file that they come from).

    Raises:
        LacunaError: codes of `foreign.read_weights`, `SegmentationModel.import_published` and `recognise`; `bad-card`;
            `output-is-input`, `output-folder`, `output-exists`.
    """
    check_outputs([job.output], [job.weights, job.card], job.overwrite)
    values = _read_json(job.card) if job.card is not None and job.network in NETWORKS else {}
    state = read_weights(job.weights, reporter)
    reporter.check()
    if job.network in NETWORKS:
        return _import_network(job, values, state, reporter)
    if job.card is not None:
        reporter.warn(f"The card {job.card} is not used: encoders have none.")
    return _import_encoder(job, state, reporter)


def _import_network(
    job: ImportJob, values: dict[str, Any], state: Mapping[str, Tensor], reporter: Reporter
) -> dict[str, Any]:
    """Write the checkpoint of a whole network, described by the `values` of the given card."""
    card = _card(job, values)
    channels = {item.name: len(item.bands) for item in card.modalities}
    kind = architecture(job.network)
    config, tensors = kind.import_published(state, card.architecture["config"], channels, len(card.classes))
    with torch.device("meta"):
        model = build(job.network, config, channels, len(card.classes))
    model.load_state_dict(tensors, assign=True)
    _complete(card, values, model, job, reporter)
    save(job.output, tensors, card)
    count = sum(parameter.numel() for parameter in model.parameters())
    reporter.info(f"Wrote {job.output}: {job.network}, {count} parameters.")
    return {
        "checkpoint": job.output, "architecture": job.network, "parameters": count, "parents": card.parents,
    }  # fmt: skip


def _import_encoder(job: ImportJob, state: Mapping[str, Tensor], reporter: Reporter) -> dict[str, Any]:
    """Write an encoder file."""
    name, channels, tensors = recognise(state, job.network)
    parents = [sha256(job.weights)]
    _say_licence(job, reporter)
    info = EncoderInfo(name, channels, os.path.basename(job.weights), _UNKNOWN, parents, _now())
    save_encoder(job.output, tensors, info)
    count = sum(tensor.numel() for name, tensor in tensors.items() if ".running_" not in name)
    reporter.info(f"Wrote {job.output}: {name} for images of {channels} bands, {count} parameters.")
    return {"encoder_file": job.output, "encoder": name, "parameters": count, "parents": parents}


def _card(job: ImportJob, values: dict[str, Any]) -> Card:
    """Return the card that the JSON `values` describe; it may leave out the architecture."""
    values = {"architecture": {"name": job.network}, **values}
    card = card_from_dict(values, job.card or "the card")
    named = card.architecture["name"]
    if named != job.network:
        raise LacunaError(
            "bad-card",
            f"{job.card} describes the architecture {named}, the weights are to be imported as {job.network}.",
            "Correct the card, or the command.",
        )
    return card


def _complete(
    card: Card, values: Mapping[str, Any], model: SegmentationModel, job: ImportJob, reporter: Reporter
) -> None:
    """Fill in what `values` left open, and what follows from the network and the file; say what is not known."""
    native = list(model.native_size or ())
    card.architecture = {"name": job.network, "config": model.config()}
    card.stride = model.output_stride
    if native and "tile" not in values:
        card.tile = native
    if "margin" not in values:
        card.margin = min(model.margin, min(card.tile) // 4)
    notes = [card.description, model.import_note]
    if native:
        size = f"{native[0]} x {native[1]} pixels"
        notes.append(f"Made for tiles of {size}; in others, learned positions are interpolated.")
    card.description = " ".join(note for note in notes if note)
    card.name = card.name or os.path.splitext(os.path.basename(job.weights))[0]
    if card.scores or card.calibration:
        reporter.warn(f"Scores and calibration of {job.card} are left out: nothing was measured with this checkpoint.")
    card.scores, card.scores_on, card.calibration = [], "", []
    if not card.licence:
        card.licence = _UNKNOWN
        _say_licence(job, reporter)
    card.training = {**card.training, "imported_from": os.path.basename(job.weights), "versions": library_versions()}
    card.parents = [*card.parents, sha256(job.weights)]
    card.created = _now()


def _say_licence(job: ImportJob, reporter: Reporter) -> None:
    reporter.warn(f"The licence of {job.weights} is not known: check it at the source before you pass it on.")


def _read_json(path: str) -> dict[str, Any]:
    """Return the JSON object in the file at `path`."""
    try:
        with open(path, encoding="utf-8") as stream:
            values = parse_json(stream.read())
    except FileNotFoundError:
        raise LacunaError("file-missing", f"The card {path} does not exist.", "Check its path.") from None
    except OSError as problem:
        text = f"The card {path} cannot be read: {problem.strerror}."
        raise LacunaError("file-unreadable", text, "Check its path and rights.") from None
    except ValueError as problem:
        raise LacunaError("bad-card", f"The card {path} is no JSON: {problem}.", "Correct it there.") from None
    if not isinstance(values, dict):
        raise LacunaError("bad-card", f"The card {path} is no JSON object.", "See docs/checkpoint.md for its form.")
    return values


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

# SPDX-License-Identifier: GPL-2.0-or-later
"""From an entry of a catalogue to a checkpoint in a folder; the file has its final name only when all of it is right.

Behind `lacuna fetch` and the dialog of QGIS alike.
"""

from __future__ import annotations

import os
from typing import Any

from ..checkpoint.card_file import read_card
from ..checkpoint.header import sha256
from ..checkpoint.summary import card_in_words
from ..errors import LacunaError, disk_error
from ..events import Reporter
from ..jobs import FetchJob
from ..locks import only_writer
from .address import CATALOGUE_NAME, checkpoint_folder, is_remote
from .download import Part, download
from .entry import CatalogueEntry, size_words
from .listing import Catalogue, read_catalogue
from .network import Network


def fetch_job(job: FetchJob, reporter: Reporter) -> dict[str, Any]:
    """Do what `lacuna fetch` asks for, and return its result.

    Raises:
        LacunaError: as `read_catalogue`, `Catalogue.find` and `fetch`.
    """
    network = Network()
    # What is named may be the address of a catalogue, or of one item, itself.
    named = is_remote(job.name) or job.name.endswith(".json") or os.path.exists(os.path.join(job.name, CATALOGUE_NAME))
    text, name = (job.name, "") if named else (job.catalogue, job.name)
    if "#" in text and is_remote(text):
        text, _, name = text.partition("#")
    catalogue = read_catalogue(text, network, reporter)
    for problem in catalogue.faults.values():
        reporter.warn(problem.text)
    if job.list_only:
        return _list(catalogue, name, reporter)
    entry = catalogue.find(name)
    folder = os.path.abspath(job.output or checkpoint_folder())
    path = fetch(entry, folder, network, reporter, job.accept_licence, job.overwrite)
    card = entry.card
    told = {"licence": card.licence, "credits": card.credits}
    return {"checkpoint": path, "name": entry.name, "sha256": entry.sha256, "catalogue": catalogue.address, **told}


def fetch(
    entry: CatalogueEntry,
    folder: str,
    network: Network,
    reporter: Reporter,
    accept_licence: bool = False,
    overwrite: bool = False,
) -> str:
    """Bring a checkpoint into `folder`, which is made if need be, and return its path; one that is there is kept.

    Args:
        entry: which one.
        folder: where it goes.
        network: how servers are reached.
        reporter: hears the progress.
        accept_licence: whether its licence has been read and accepted, where that is asked for.
        overwrite: whether another file of the same name may be replaced.

    Raises:
        LacunaError: `licence-not-accepted`, `output-exists`, `output-busy`, `card-differs`, and as `download` and
            `read_card`.
        CancelledError: the reporter was told to stop.
    """
    if entry.must_accept and not accept_licence:
        raise _not_accepted(entry, reporter)
    target = os.path.join(folder, entry.file_name)
    try:
        os.makedirs(folder, exist_ok=True)
        if is_here(entry, folder):
            reporter.info(f"{target} is there already.")
            return target
        if os.path.lexists(target) and not overwrite:
            raise LacunaError(
                "output-exists",
                f"{target} exists already, and is not the same as in the catalogue: another version, or changed here.",
                "Choose another folder, or allow overwriting (--overwrite).",
            )
        with only_writer(target + ".part.lock", target):
            part = Part(entry, target)
            download(part, network, reporter)
            _check_card(part)
            os.replace(part.path, target)
            part.remove()
    except OSError as problem:
        raise disk_error(problem, str(problem.filename or target)) from None
    return target


def is_here(entry: CatalogueEntry, folder: str) -> bool:
    """Return whether the very file of `entry` lies in `folder`; OSError if it cannot be read."""
    path = os.path.join(folder, entry.file_name)
    return os.path.isfile(path) and os.path.getsize(path) == entry.size and sha256(path) == entry.sha256


def _check_card(part: Part) -> None:
    """Raise LacunaError unless the card in the file is the one that the catalogue showed; the file is then removed."""
    try:
        inside, shown = read_card(part.path).to_dict(), part.entry.card.to_dict()
    except LacunaError as problem:
        part.remove()
        raise LacunaError(problem.code, problem.text.replace(part.path, part.entry.address), problem.hint) from None
    other = [key for key in shown if inside[key] != shown[key]]
    if other:
        part.remove()
        raise LacunaError(
            "card-differs",
            f"{part.entry.address} is not what the catalogue says: its card differs in {', '.join(other)}. It was "
            "thrown away.",
            "Tell whoever publishes the catalogue.",
        )


def _not_accepted(entry: CatalogueEntry, reporter: Reporter) -> LacunaError:
    """Show the licence, and return the error that it was not accepted."""
    if entry.licence_text:
        reporter.info(entry.licence_text)
    where = f" It can be read at {entry.licence_link}" if entry.licence_link else " It is shown above."
    return LacunaError(
        "licence-not-accepted",
        f"The licence of {entry.name} ({entry.card.licence or 'without a name'}) must be accepted first.{where}",
        "Read it, and if you agree say so with --accept-licence.",
    )


def _list(catalogue: Catalogue, name: str, reporter: Reporter) -> dict[str, Any]:
    """Say what a catalogue has, or all of one card, and return it as a result."""
    entries = [catalogue.find(name)] if name else catalogue.entries
    for entry in entries:
        reporter.info(card_in_words(entry.card, entry.file_name, entry.sha256) if name else entry_in_words(entry))
    return {"catalogue": catalogue.address, "checkpoints": [entry.to_dict() for entry in entries]}


def entry_in_words(entry: CatalogueEntry) -> str:
    """Return a few lines on a checkpoint for a terminal."""
    card = entry.card
    need = ", must be accepted" if entry.must_accept else ""
    lines = [f"{entry.name}  {size_words(entry.size)}  licence: {card.licence or 'not stated'}{need}"]
    if card.description:
        lines.append(card.description)
    lines.append(f"modalities: {', '.join(item.name + ' (required)' * item.required for item in card.modalities)}")
    lines.append(f"classes: {', '.join(item.name for item in card.classes)}")
    scores = [f"{' + '.join(item['available'])} {item['miou']:.2f}" for item in card.scores]
    lines.append(f"mIoU: {', '.join(scores) or 'not measured'}")
    return "\n  ".join(lines) + "\n"

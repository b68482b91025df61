# SPDX-License-Identifier: GPL-2.0-or-later
"""A catalogue: a STAC ItemCollection of checkpoints, read from a server, a folder share or a disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..checkpoint.header import parse_json
from ..errors import LacunaError, UsageError, disk_error
from ..events import Reporter
from .address import catalogue_address, is_remote
from .entry import CatalogueEntry, entry_from_item
from .network import Network

MAX_BYTES = 16 * 1024 * 1024
MAX_ITEMS = 1000


@dataclass(frozen=True)
class Catalogue:
    """What a catalogue offers.

    Attributes:
        address: a URL or a path.
        entries: the checkpoints, in the catalogue's order.
        faults: by name, why the others cannot be used.
    """

    address: str
    entries: list[CatalogueEntry] = field(default_factory=list)
    faults: dict[str, LacunaError] = field(default_factory=dict)

    def find(self, name: str) -> CatalogueEntry:
        """Return the checkpoint called `name`: by its name here, by that of its card, or by that of its file.

        An empty name means the only one.

        Raises:
            UsageError: `unknown-checkpoint`.
            LacunaError: why the item of that name cannot be used.
        """
        if name in self.faults:
            raise self.faults[name]
        if not name and len(self.entries) == 1:
            return self.entries[0]
        ways = ("name", "file_name")
        found = [item for item in self.entries if name in (*(getattr(item, way) for way in ways), item.card.name)]
        exact = [item for item in found if item.name == name]
        if len(exact or found) != 1:
            known = ", ".join(item.name for item in self.entries[:20]) or "none"
            text = f"The catalogue {self.address} has no checkpoint {name!r}." if name else "No checkpoint was named."
            raise UsageError("unknown-checkpoint", text, f"It has: {known}.")
        return (exact or found)[0]


def read_catalogue(text: str, network: Network, reporter: Reporter) -> Catalogue:
    """Return the catalogue that `text` means: a URL, a file, a folder that holds one, or nothing for the project's own.

    Raises:
        LacunaError: `bad-address`, `bad-catalogue`; from disk `file-missing` and as `disk_error`; from a server as
            `Network.ask` and `interrupted`.
        CancelledError: the reporter was told to stop.
    """
    address = catalogue_address(text)
    if is_remote(address):
        with network.ask(address, reporter, {"Accept": "application/geo+json, application/json"}) as answer:
            found = answer.read(MAX_BYTES)
    else:
        found = _read_file(address)
    if len(found) > MAX_BYTES:
        raise _bad(address, f"it is larger than {MAX_BYTES >> 20} MB")
    return parse_catalogue(found, address)


def parse_catalogue(text: bytes, address: str) -> Catalogue:
    """Return the catalogue in the JSON `text` that came from `address`; one item stands for a catalogue of one.

    Raises:
        LacunaError: `bad-catalogue`.
    """
    try:
        values = parse_json(text.decode("utf-8-sig"))
    except ValueError as problem:  # among them UnicodeDecodeError
        raise _bad(address, f"it is no JSON that can be read ({str(problem)[:200]})") from None
    items: Any = None
    if isinstance(values, dict):
        items = [values] if values.get("type") == "Feature" else values.get("features")
    if not isinstance(items, list) or (len(items) != 1 and values.get("type") != "FeatureCollection"):
        raise _bad(address, "it is no FeatureCollection with features")
    if len(items) > MAX_ITEMS:
        raise _bad(address, f"it has {len(items)} items; at most {MAX_ITEMS} are read")
    catalogue = Catalogue(address)
    for number, item in enumerate(items, start=1):
        _add(catalogue, item, number)
    return catalogue


def _add(catalogue: Catalogue, item: Any, number: int) -> None:
    """Add what an item describes, or what is wrong with it: one that is bad does not hide the others."""
    name = str(item.get("id"))[:80] if isinstance(item, dict) else f"number {number}"
    try:
        entry = entry_from_item(item, catalogue.address)
        if any(entry.name == other.name or _same_file(entry, other) for other in catalogue.entries):
            raise _bad(catalogue.address, f"it has two items {entry.name}, or two files {entry.file_name}")
        catalogue.entries.append(entry)
    except LacunaError as problem:
        taken = not name.isprintable() or any(name == other.name for other in catalogue.entries)
        catalogue.faults[f"number {number}" if taken else name] = problem


def _same_file(entry: CatalogueEntry, other: CatalogueEntry) -> bool:
    """Return whether two entries would be one file on a disk that takes capitals for small letters."""
    return entry.file_name.casefold() == other.file_name.casefold()


def _read_file(path: str) -> bytes:
    """Return the file at `path`, of which no more than a little above the limit is read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise LacunaError(
            "file-missing", f"There is no catalogue {path}.", "Check the path, and that the disk or share is there."
        ) from None
    except (OSError, ValueError) as problem:
        raise disk_error(problem if isinstance(problem, OSError) else OSError(str(problem)), path) from None


def _bad(address: str, why: str) -> LacunaError:
    return LacunaError(
        "bad-catalogue",
        f"{address} is no catalogue of checkpoints that can be used: {why}.",
        "Check the address, or tell whoever publishes the catalogue.",
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""One checkpoint of a catalogue: a STAC MLM item as it stands in the checkpoint's own header, and where the file is.

Beside the extension MLM an item uses the file extension (https://github.com/stac-extensions/file, `file:size` and
`file:checksum`, a multihash in hexadecimal: 12 for SHA-256, 20 for 32 bytes, and the sum) and, for what no standard
has words for, `lacuna:card` (the part of the card that is not in MLM), `lacuna:accept_licence` and
`lacuna:licence_text`. See `docs/catalogue.md`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..checkpoint.card import Card
from ..checkpoint.card_file import card_from_metadata, card_metadata
from ..errors import LacunaError
from .address import file_name, is_remote, resolve

FILE_SCHEMA = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
# No checkpoint is larger: one terabyte.
MAX_SIZE = 1 << 40
MAX_LICENCE_TEXT = 200_000
_MULTIHASH = "1220"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
# STAC 1.1, common metadata: an SPDX identifier, else the word `other`.
_SPDX = re.compile(r"[\w.+-]+\Z", re.ASCII)


@dataclass(frozen=True)
class CatalogueEntry:
    """A checkpoint that can be fetched.

    Attributes:
        name: by which it is asked for; unique in its catalogue.
        card: what it says of itself; compared with the file's own card once that is here.
        address: a URL, or a path where the catalogue lies on disk.
        file_name: what the file will be called here.
        size: in bytes.
        sha256: in hexadecimal.
        must_accept: whether its licence must be accepted before it is fetched.
        licence_text: the text of the licence, or empty.
        licence_link: where the licence can be read, or empty.
    """

    name: str
    card: Card
    address: str
    file_name: str
    size: int
    sha256: str
    must_accept: bool = False
    licence_text: str = ""
    licence_link: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON values: what `lacuna fetch --list --json` prints."""
        return {
            "name": self.name,
            "file": self.file_name,
            "address": self.address,
            "size": self.size,
            "sha256": self.sha256,
            "accept_licence": self.must_accept,
            "licence_text": self.licence_text,
            "licence_link": self.licence_link,
            "card": self.card.to_dict(),
        }


def entry_from_item(item: Any, catalogue: str) -> CatalogueEntry:
    """Return the checkpoint that the STAC `item` of the catalogue at the address `catalogue` describes, all checked.

    Raises:
        LacunaError: `bad-catalogue`, `bad-card`, `newer-schema`.
    """
    name = item.get("id") if isinstance(item, dict) else None
    if not isinstance(name, str) or not _ID.match(name):
        raise _bad("an item", f"its id is {str(name)[:80]!r}; letters, digits, dots, - and _ were expected")
    if _has_controls(item):
        raise _bad(name, "its texts hold control characters")
    try:
        properties, asset = item["properties"], item["assets"]["model"]
        rest, href, size, checksum = (
            properties["lacuna:card"],
            asset["href"],
            asset["file:size"],
            asset["file:checksum"],
        )
        links = item.get("links", [])
        licences = [link["href"] for link in links if link["rel"] == "license"]
    except (KeyError, TypeError, AttributeError) as problem:
        raise _bad(name, f"it lacks what is needed, or has it in another form ({problem})") from None
    if not isinstance(href, str) or not href or type(size) is not int or not 0 < size <= MAX_SIZE:
        raise _bad(name, f"its file is {str(href)[:200]!r} of {str(size)[:40]} bytes; a name and a size were expected")
    if not isinstance(checksum, str) or not re.match(_MULTIHASH + r"[0-9a-fA-F]{64}\Z", checksum):
        raise _bad(name, f"its file:checksum is {str(checksum)[:100]!r}; {_MULTIHASH} and a SHA-256 were expected")
    origin = f"The item {name} of the catalogue"
    card = card_from_metadata({"mlm": json.dumps(item), "lacuna": json.dumps(rest)}, origin)
    must_accept, text, link = _licence(properties, licences, name)
    address = resolve(catalogue, href)
    return CatalogueEntry(name, card, address, file_name(href), size, checksum[4:].lower(), must_accept, text, link)


def item_of(card: Card, href: str, size: int, sha256: str, licence: str = "") -> dict[str, Any]:
    """Return the STAC item of a checkpoint, as `entry_from_item` reads it.

    Args:
        card: what the checkpoint says of itself.
        href: of the file, relative to the catalogue or absolute.
        size: of the file, in bytes.
        sha256: of the file, in hexadecimal.
        licence: a text, or the address of one, that must be accepted before the checkpoint is fetched; or empty.
    """
    metadata = card_metadata(card)
    item = json.loads(metadata["mlm"])
    item["stac_extensions"].append(FILE_SCHEMA)
    properties = item["properties"]
    known = card.licence != "unknown" and _SPDX.match(card.licence)
    properties["license"] = card.licence if known else "other"
    properties["lacuna:card"] = json.loads(metadata["lacuna"])
    properties["lacuna:accept_licence"] = bool(licence)
    if is_remote(licence):
        item["links"].append({"rel": "license", "href": licence})
    elif licence:
        properties["lacuna:licence_text"] = licence
    asset = item["assets"]["model"]
    asset.update({"href": href, "title": "Weights and card", "file:size": size, "file:checksum": _MULTIHASH + sha256})
    return item


def size_words(size: int) -> str:
    """Return a number of bytes in words: `2.6 MB`, `340 kB`."""
    if size < 1_000_000:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB" if size < 1_000_000_000 else f"{size / 1e9:.2f} GB"


def _licence(properties: dict[str, Any], links: list[Any], name: str) -> tuple[bool, str, str]:
    """Return whether the licence must be accepted, its text and its address, checked."""
    must_accept = properties.get("lacuna:accept_licence", False)
    text, link = properties.get("lacuna:licence_text", ""), links[0] if links else ""
    if type(must_accept) is not bool or not isinstance(text, str) or len(text) > MAX_LICENCE_TEXT:
        raise _bad(name, "it does not say in a way that can be read whether its licence must be accepted")
    if link and (not isinstance(link, str) or not is_remote(link)):
        raise _bad(name, f"its licence is said to be at {str(link)[:200]!r}, which is no address of a web page")
    if must_accept and not (text.strip() or link):
        raise _bad(name, "its licence must be accepted, but neither its text nor its address is given")
    return must_accept, text, link


def _has_controls(value: Any) -> bool:
    """Return whether a text in the JSON `value` could steer the terminal that it is printed to."""
    if isinstance(value, dict):
        return any(_has_controls(key) or _has_controls(item) for key, item in value.items())
    if isinstance(value, list):
        return any(map(_has_controls, value))
    return isinstance(value, str) and re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", value) is not None


def _bad(name: str, why: str) -> LacunaError:
    subject = name if name == "an item" else f"the item {name}"
    return LacunaError(
        "bad-catalogue", f"In the catalogue {subject} cannot be used: {why}.", "Tell whoever publishes the catalogue."
    )

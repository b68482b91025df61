# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses of catalogues and of the files they name, and the folder in which fetched checkpoints lie."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

from ..errors import LacunaError, UsageError

# The project's own catalogue: an asset of a release that is called `checkpoints`, beside the files it names.
DEFAULT_CATALOGUE = "https://github.com/lacuna-qgis/lacuna/releases/download/checkpoints/catalogue.json"
CATALOGUE_NAME = "catalogue.json"
SUFFIX = ".safetensors"
MAX_ADDRESS = 2000
_REMOTE = ("http", "https")
# One letter before a colon is a drive of Windows, not a scheme.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_FILE_NAME = re.compile(r"\w[\w .()+-]{0,119}" + re.escape(SUFFIX) + r"\Z")
# Windows takes these for devices, whatever follows the first dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)", re.IGNORECASE)


def is_remote(address: str) -> bool:
    """Return whether `address` is one of a server: http or https."""
    return scheme_of(address) in _REMOTE


def scheme_of(address: str) -> str:
    """Return the scheme of `address` in small letters, or an empty string for a path."""
    found = _SCHEME.match(address)
    return found.group(1).lower() if found else ""


def check_address(address: str) -> None:
    """Raise UsageError `bad-address` unless the remote `address` can be asked for as it stands."""
    try:
        parts = urlsplit(address)
        host, _, secret = parts.hostname, parts.port, parts.username is not None or parts.password is not None
    except ValueError as problem:
        raise _bad_address(address, str(problem)) from None
    if not host:
        raise _bad_address(address, "it names no server")
    if secret:
        raise _bad_address(address, "it holds a user's name or password, which would end up in logs")
    if len(address) > MAX_ADDRESS or not address.isascii() or re.search(r"[\x00-\x20\x7f]", address):
        raise _bad_address(address, "it is too long, or has blanks or letters that an address cannot have")


def catalogue_address(text: str) -> str:
    """Return the address of the catalogue that `text` means: a URL, or the path of a file; of a folder, what it holds.

    Raises:
        UsageError: `bad-address`.
    """
    text = text.strip() or DEFAULT_CATALOGUE
    scheme = scheme_of(text)
    if scheme in _REMOTE:
        check_address(text)
        return text
    if scheme == "file":
        # As a file manager copies it; url2pathname knows drives and shares of Windows.
        parts = urlsplit(text)
        text = url2pathname(f"//{parts.netloc}{parts.path}" if parts.netloc not in ("", "localhost") else parts.path)
    elif scheme:
        raise _bad_address(text, f"{scheme}: is not supported")
    path = os.path.abspath(os.path.expanduser(text))
    return os.path.join(path, CATALOGUE_NAME) if os.path.isdir(path) else path


def resolve(catalogue: str, href: str) -> str:
    """Return the address of the file that a catalogue at the address `catalogue` calls `href`.

    A remote catalogue names files on servers, and one that came safely (https) only files that do. A catalogue on disk
    may also name files in its own folder and below; no other path, whatever tricks its name has.

    Raises:
        LacunaError: `bad-catalogue`.
    """
    if is_remote(catalogue):
        address = urljoin(catalogue, href)
        if not is_remote(address) or (scheme_of(catalogue), scheme_of(address)) == ("https", "http"):
            raise _bad_href(href, f"a catalogue that comes by {scheme_of(catalogue)} cannot name it")
        check_address(address)
        return address
    if is_remote(href):
        check_address(href)
        return href
    folder, plain = os.path.realpath(os.path.dirname(catalogue)), _plain(href)
    odd = scheme_of(href) or plain.startswith(("/", "\\")) or "\\" in plain or ":" in plain or "\0" in plain
    path = "" if odd else os.path.realpath(os.path.join(folder, plain))
    if not path.startswith(os.path.join(folder, "")):
        raise _bad_href(href, "it leads out of the folder of the catalogue")
    return path


def file_name(href: str) -> str:
    """Return the name that the file at `href` will have here: the last part of it, if that is a harmless name.

    Raises:
        LacunaError: `bad-catalogue`.
    """
    path = urlsplit(href).path if is_remote(href) else href
    # What %2F hides is no part of a name either, so the name is taken apart before it is decoded.
    name = unicodedata.normalize("NFC", _plain(path.rsplit("/", 1)[-1]))
    if not _FILE_NAME.match(name) or _DEVICES.match(name):
        raise _bad_href(href, f"a plain file name that ends in {SUFFIX} is needed")
    return name


def checkpoint_folder() -> str:
    """Return the folder for fetched checkpoints where nobody has chosen one, as each system has it; it may not exist.

    QGIS has one in its profile instead.
    """
    home = os.path.expanduser("~")
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Application Support")
    else:
        base = os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share")
    return os.path.join(base, "lacuna", "checkpoints")


def _plain(text: str) -> str:
    """Return `text` with its %20 and the like decoded."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _bad_href(text, "it is not in UTF-8") from None


def _bad_address(address: str, why: str) -> UsageError:
    return UsageError(
        "bad-address",
        f"{address[:200]!r} is no address of a catalogue: {why}.",
        "Give one that begins with https:// or http://, or the path of a file or folder.",
    )


def _bad_href(href: str, why: str) -> LacunaError:
    return LacunaError(
        "bad-catalogue",
        f"The catalogue names a file {href[:200]!r} that is not fetched: {why}.",
        "Tell whoever publishes the catalogue.",
    )

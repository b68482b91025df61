# SPDX-License-Identifier: GPL-2.0-or-later
"""Brings the file of a catalogue's entry to `NAME.safetensors.part`, and goes on there after an interruption.

A note beside the part says whose it is: size and SHA-256 of the whole, and the server's mark of this version of the
file (a strong ETag, else Last-Modified). The rest is asked for with `Range` and `If-Range` (RFC 9110, sections 13.1.5
and 14): a server whose file has changed, or that knows no ranges, sends all of it, and the part begins anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any, Optional

from ..errors import LacunaError, disk_error
from ..events import Reporter
from .address import is_remote
from .entry import CatalogueEntry, size_words
from .network import BLOCK, Network, interrupted

# How often a cut connection is taken up without any byte having come in between.
TRIES = 3
# Progress is said this often at most.
STEPS = 200
# Bytes that must stay free on the disk beside the file.
SPARE = 16 << 20


class Part:
    """The unfinished file of `entry` that will be `target`."""

    def __init__(self, entry: CatalogueEntry, target: str) -> None:
        self.entry = entry
        self.path = target + ".part"
        self.note = target + ".part.json"

    def there(self) -> tuple[int, str]:
        """Return how many bytes of this very file are there, and the mark of the version they are of."""
        try:
            with open(self.note, encoding="utf-8") as stream:
                note = json.load(stream)
            size = os.path.getsize(self.path)
            same = (note["size"], note["sha256"]) == (self.entry.size, self.entry.sha256)
            mark = note["mark"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0, ""
        if not same or not isinstance(mark, str) or not mark or size > self.entry.size:
            return 0, ""
        return size, mark

    def begin(self, mark: str) -> None:
        """Write down whose part this is."""
        with open(self.note, "w", encoding="utf-8") as stream:
            json.dump({"size": self.entry.size, "sha256": self.entry.sha256, "mark": mark}, stream)

    def remove(self) -> None:
        """Remove the part and its note."""
        for path in (self.path, self.note):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def download(part: Part, network: Network, reporter: Reporter) -> None:
    """Bring the whole file to `part`, its SHA-256 checked.

    A connection that is cut is taken up again by itself as long as bytes come.

    Raises:
        LacunaError: `disk-full` (beforehand, where it shows then), `wrong-size`, `wrong-sum` (both leave nothing),
            `interrupted`, and as `Network.ask` and `disk_error`.
        CancelledError: the reporter was told to stop; what has come stays if it can be gone on with.
    """
    tries = 0
    while True:
        before = part.there()[0]
        try:
            _fetch_rest(part, network, reporter)
            break
        except LacunaError as problem:
            if problem.code == "range-refused" and before:
                part.remove()
            elif problem.code != "interrupted":
                raise
            tries = 0 if part.there()[0] - before >= BLOCK else tries + 1
            if tries >= TRIES:
                raise
            reporter.info(f"{problem.text} Trying again.")
        except OSError as problem:
            raise disk_error(problem, str(problem.filename or part.path)) from None
    _check_sum(part, reporter)


def _fetch_rest(part: Part, network: Network, reporter: Reporter) -> None:
    """Fetch what is not there yet."""
    have, mark = part.there()
    if have == part.entry.size:
        return
    if not is_remote(part.entry.address):
        _copy_rest(part, reporter)
        return
    headers = {"Range": f"bytes={have}-", "If-Range": mark} if have else {}
    with network.ask(part.entry.address, reporter, headers) as answer:
        found = _mark(answer.headers)
        if answer.status == 206:
            _check_range(answer.headers.get("Content-Range", ""), have, mark, found, part)
            start = have
        else:
            start = 0
        if have:
            known = f"{size_words(have)} were here already."
            reporter.info(known if start else "The server sends the whole file anew.")
        _write(part, start, mark if start else found, answer.length, answer.blocks(), reporter)


def _copy_rest(part: Part, reporter: Reporter) -> None:
    """Copy what is not there yet from the disk or share on which the catalogue lies."""
    have, mark = part.there()
    with open(part.entry.address, "rb") as stream:
        found = os.fstat(stream.fileno())
        now = f"{found.st_size} {found.st_mtime_ns}"
        start = have if mark == now else 0
        stream.seek(start)
        blocks = iter(lambda: stream.read(BLOCK), b"")
        _write(part, start, now, found.st_size - start, blocks, reporter)


def _write(
    part: Part, start: int, mark: str, length: Optional[int], blocks: Iterator[bytes], reporter: Reporter
) -> None:
    """Write `blocks`, of `length` bytes together if that is known, from the byte `start` on."""
    size = part.entry.size
    if length is not None and start + length != size:
        raise _wrong_size(part, start + length)
    if not start:
        part.remove()
        _check_space(part.path, size)
        part.begin(mark)
    else:
        _check_space(part.path, size - start)
    total = said = start
    try:
        with open(part.path, "r+b" if start else "wb") as stream:
            stream.seek(start)
            for block in blocks:
                total += len(block)
                if total > size:
                    break
                stream.write(block)
                if total == size or total - said >= size // STEPS:
                    said = total
                    _say(total, size, reporter)
                reporter.check()
            stream.flush()
            os.fsync(stream.fileno())
        if total > size:
            raise _wrong_size(part, total, "or more")
        if total < size:
            raise interrupted(part.entry.address, f"{size_words(total)} of {size_words(size)} had come")
    except BaseException:
        # Without a mark nobody can tell whether the rest would be of the same file.
        if not mark:
            part.remove()
        raise


def _check_range(text: str, have: int, mark: str, found: str, part: Part) -> None:
    """Raise LacunaError unless a partial answer is the rest that was asked for, of the same version of the file."""
    numbers = re.match(r"bytes (\d+)-(\d+)/(\d+|\*)\Z", text)
    if not numbers or int(numbers.group(1)) != have or (found and found != mark):
        # As if the server had no such range: the part is removed, and all of the file is asked for.
        raise LacunaError(
            "range-refused", f"The server sent another part of {part.entry.file_name} than the one asked for."
        )
    if numbers.group(3) not in ("*", str(part.entry.size)):
        raise _wrong_size(part, int(numbers.group(3)))


def _mark(headers: Any) -> str:
    """Return what tells that a file of the server is still the same, as `If-Range` takes it, or an empty string."""
    tag = headers.get("ETag", "").strip()
    return tag if tag.startswith('"') else headers.get("Last-Modified", "").strip()


def _check_space(path: str, needed: int) -> None:
    """Raise LacunaError `disk-full` if `needed` bytes and some to spare are not free beside `path`."""
    folder = os.path.dirname(path)
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise LacunaError(
            "disk-full",
            f"The disk is too full: {size_words(needed)} are to come into {folder}, and {size_words(free)} are free.",
            "Free some space there, or choose another folder.",
        )


def _check_sum(part: Part, reporter: Reporter) -> None:
    """Raise LacunaError `wrong-sum` unless the part is, byte for byte, what the catalogue promises."""
    digest = hashlib.sha256()
    try:
        with open(part.path, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
                reporter.check()
    except OSError as problem:
        raise disk_error(problem, part.path) from None
    if digest.hexdigest() != part.entry.sha256:
        part.remove()
        raise LacunaError(
            "wrong-sum",
            f"{part.entry.address} is not the file that the catalogue promises: its SHA-256 is {digest.hexdigest()}, "
            f"{part.entry.sha256} was expected. It was thrown away.",
            "Try again; if it stays so, tell whoever publishes the catalogue.",
        )


def _wrong_size(part: Part, found: int, more: str = "") -> LacunaError:
    """Return the error for a file of another size, after its part was removed."""
    part.remove()
    size = f"{found} bytes {more}".strip()
    return LacunaError(
        "wrong-size",
        f"{part.entry.address} is not the file that the catalogue promises: it has {size}, "
        f"{part.entry.size} were expected. It was thrown away.",
        "Tell whoever publishes the catalogue.",
    )


def _say(done: int, size: int, reporter: Reporter) -> None:
    """Say how far the download is, in the largest unit that still moves."""
    unit, name = (1_000_000, "MB") if size >= 20_000_000 else (1000, "kB")
    reporter.progress(done // unit, max(1, size // unit), name)

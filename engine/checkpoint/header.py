# SPDX-License-Identifier: GPL-2.0-or-later
"""The header of a safetensors file, read with the standard library alone (Python 3.9), before any tensor.

Format: https://github.com/huggingface/safetensors#format: eight bytes for the header's length, the header as JSON,
the tensors' bytes.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any

from ..errors import LacunaError

# Ours have headers of a few tens of kilobytes; a larger claim is a broken or hostile file.
MAX_HEADER = 16 * 1024 * 1024
MAX_METADATA = 4 * 1024 * 1024
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_header(path: str) -> dict[str, Any]:
    """Return the header of the safetensors file at `path`: tensors by name, and `__metadata__`.

    Raises:
        LacunaError: `file-missing`, `file-unreadable`, `pickle`, `not-safetensors` or `cut-short`.
    """
    try:
        with open(path, "rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            text = stream.read(length) if 2 <= length <= MAX_HEADER else b""
            size = os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        raise LacunaError("file-missing", f"The checkpoint {path} does not exist.", "Check its path.") from None
    except OSError as problem:
        raise LacunaError(
            "file-unreadable", f"The checkpoint {path} cannot be read: {problem.strerror}.", "Check its path and rights."
        ) from None
    if start.startswith(_PICKLE_STARTS):
        raise LacunaError(
            "pickle",
            f"{path} holds a pickle, whatever its name says: opening such a file can run any program it contains.",
            "Only .safetensors files are opened; published .pt and .pth weights come in through `lacuna import`.",
        )
    if not text:
        raise _not_safetensors(path, "it does not start with the length of a header")
    return _parse(path, text, length, size)


def read_metadata(path: str) -> dict[str, str]:
    """Return the metadata strings of the safetensors file at `path`; errors as for `read_header`."""
    metadata = read_header(path).get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _not_safetensors(path, "its metadata are not strings")
    if sum(map(len, metadata.values())) > MAX_METADATA:
        raise _not_safetensors(path, f"its metadata are larger than {MAX_METADATA} bytes")
    return metadata


def _parse(path: str, text: bytes, length: int, size: int) -> dict[str, Any]:
    """Return the JSON header `text`, checked against its announced `length` and the file's `size`."""
    if len(text) < length:
        raise _cut_short(path, 8 + length, size)
    try:
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("no object")
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise _not_safetensors(path, "its header is not the JSON of one") from None
    if size < expected:
        raise _cut_short(path, expected, size)
    return header


def _not_safetensors(path: str, why: str) -> LacunaError:
    return LacunaError(
        "not-safetensors", f"{path} is no safetensors file: {why}.", "Choose a checkpoint of Lacuna (.safetensors)."
    )


def _cut_short(path: str, expected: int, size: int) -> LacunaError:
    return LacunaError(
        "cut-short",
        f"{path} is cut short: {size} bytes were found, {expected} expected.",
        "Copy or download it again.",
    )

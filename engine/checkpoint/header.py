# SPDX-License-Identifier: GPL-2.0-or-later
"""The header of a safetensors file, read with the standard library alone (Python 3.9), before any tensor.

Format: https://github.com/huggingface/safetensors#format: eight bytes for the header's length, the header as JSON,
the tensors' bytes. As that page demands, tensors neither overlap nor leave holes, and no key stands twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from typing import Any

from ..errors import LacunaError

# Ours have headers of a few tens of kilobytes; a larger claim is a broken or hostile file.
MAX_HEADER = 16 * 1024 * 1024
MAX_METADATA = 4 * 1024 * 1024
# Bytes of one element of each type a file may hold.
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4}
SIZES.update({"U64": 8, "I64": 8, "F64": 8})
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_MAX_ITEMS = 2**48


def read_header(path: str) -> dict[str, Any]:
    """Return the header of the safetensors file at `path`: by name `dtype`, `shape`, `data_offsets`; `__metadata__`.

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
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise LacunaError(
            "file-unreadable", f"The checkpoint {path} cannot be read: {reason}.", "Check its path and rights."
        ) from None
    if _is_pickle(start):
        raise LacunaError(
            "pickle",
            f"{path} holds a pickle, whatever its name says: opening such a file can run any program it contains.",
            "Only .safetensors files are opened; choose the .safetensors form of these weights.",
        )
    if size == 0:
        raise _not_safetensors(path, "it is empty")
    if not text.startswith(b"{"):
        raise _not_safetensors(path, "it does not start with the length of a header and a header")
    return _parse(path, text, length, size)


def read_metadata(path: str) -> dict[str, str]:
    """Return the metadata strings of the safetensors file at `path`; errors as for `read_header`."""
    return metadata_of(read_header(path), path)


def metadata_of(header: dict[str, Any], path: str) -> dict[str, str]:
    """Return the metadata strings of a `header` that was read from `path`, or raise `not-safetensors`."""
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _not_safetensors(path, "its metadata are not strings")
    if sum(map(len, metadata.values())) > MAX_METADATA:
        raise _not_safetensors(path, f"its metadata are larger than {MAX_METADATA} characters")
    return metadata


def parse_json(text: Any) -> Any:
    """Return what the JSON `text` holds; ValueError for NaN, infinity, a key that stands twice, or deep nesting."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256(path: str) -> str:
    """Return the SHA-256 of the file at `path`, in hexadecimal; OSError if it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _is_pickle(start: bytes) -> bool:
    # A header of 640 bytes also starts with 80 02: as a length it is followed by zeros, which are no opcode of pickle.
    return start.startswith(_PICKLE_STARTS) and start[2:] != bytes(6)


def _parse(path: str, text: bytes, length: int, size: int) -> dict[str, Any]:
    """Return the JSON header `text`, checked against its announced `length` and the file's `size`."""
    if len(text) < length:
        raise _cut_short(path, 8 + length, size)
    try:
        header = parse_json(text)
    except ValueError as problem:
        raise _not_safetensors(path, f"its header is no JSON that can be read ({problem})") from None
    ends = 0
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name, entry in tensors.items():
        fault = _entry_fault(entry)
        if fault:
            raise _not_safetensors(path, f"the entry of its tensor {name[:80]!r} {fault}")
    for entry in sorted(tensors.values(), key=lambda item: item["data_offsets"]):
        if entry["data_offsets"][0] != ends:
            raise _not_safetensors(path, "its tensors overlap or leave holes")
        ends = entry["data_offsets"][1]
    expected = 8 + length + ends
    if size < expected:
        raise _cut_short(path, expected, size)
    if size > expected:
        raise _not_safetensors(path, f"it has {size - expected} bytes more than its header announces")
    return header


def _entry_fault(entry: Any) -> str:
    """Return what is wrong with the header's entry of one tensor, or an empty string."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "is not made of dtype, shape and data_offsets"
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in SIZES:
        return f"has the unknown type {str(entry['dtype'])[:80]!r}"
    if not _is_sizes(shape) or len(shape) > 16 or not _is_sizes(offsets) or len(offsets) != 2:
        return "has a shape or offsets that are no sizes"
    if offsets[1] - offsets[0] != math.prod(shape) * SIZES[entry["dtype"]]:
        return "has offsets that do not fit its shape"
    return ""


def _is_sizes(values: Any) -> bool:
    """Return whether `values` is a list of whole numbers that can be sizes."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _MAX_ITEMS for value in values)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


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

# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints on disk: a model's weights and its card in one safetensors file, written whole and checked before use."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import LacunaError, disk_error
from ..models.base import SegmentationModel
from ..models.registry import build
from .card import Card
from .card_file import card_from_metadata, card_metadata
from .header import metadata_of, read_header, sha256

__all__ = ["load", "rewrite_card", "save", "sha256", "write_tensors"]

# Types in which a file may hold a tensor that the model has as float32: half precision only to be smaller.
_FLOATS = ("F32", "F16", "BF16")
_TYPES = {torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL", torch.float64: "F64"}
_NAMED = 3
_BLOCK = 2**20


def save(path: str, model: nn.Module | Mapping[str, Tensor], card: Card, *, half: bool = False) -> None:
    """Write a checkpoint: first as `path.part`, then renamed, so that `path` is whole or as it was.

    The same weights and card give the same bytes.

    Args:
        path: the `.safetensors` file; replaced if it exists.
        model: the model, or its state.
        card: what the checkpoint says of itself; checked before anything is written.
        half: store float32 weights as float16, at half the size; `load` makes them float32 again. The buffers of a
            model, such as statistics and the knots of codes, stay as they are: small differences count there.

    Raises:
        LacunaError: `bad-card`; `bad-weights`, for numbers that are not finite (or too large for float16); `disk-full`,
            `not-permitted` or `file-error`.
    """
    metadata = card_metadata(card)
    state = model.state_dict() if isinstance(model, nn.Module) else model
    buffers = {name for name, _ in model.named_buffers()} if isinstance(model, nn.Module) else set()
    write_tensors(path, state, metadata, half=half, whole=buffers)


def write_tensors(
    path: str, state: Mapping[str, Tensor], metadata: dict[str, str], *, half: bool = False, whole: Collection[str] = ()
) -> None:
    """Write tensors and metadata as a safetensors file, whole or not at all; arguments and errors as for `save`.

    The tensors `whole` are never halved.
    """
    tensors = {name: _to_store(name, tensor, half and name not in whole) for name, tensor in state.items()}
    _write(path, [_sorted(safetensors.torch.save(tensors, metadata))])


def load(path: str, device: str | torch.device = "cpu") -> tuple[Card, SegmentationModel]:
    """Return the card and the model of the checkpoint at `path`, in evaluation mode.

    Weights that the file holds in half precision become float32. All names, types and shapes are checked before any
    tensor is copied; the architecture comes from the closed registry, so nothing in the file is run.

    Raises:
        LacunaError: as for `read_card`; `unknown-architecture` or `bad-config`; `wrong-tensors`, when the file does not
            hold what the architecture needs; `bad-weights`, when a number is not finite.
    """
    header = read_header(path)
    card = card_from_metadata(metadata_of(header, path), path)
    channels = {item.name: len(item.bands) for item in card.modalities}
    # The draws of the new network's first weights must not move torch's generator for whoever loads a checkpoint.
    with torch.random.fork_rng(devices=[]):
        model = build(card.architecture["name"], card.architecture["config"], channels, len(card.classes))
    _check_tensors(path, header, model)
    model.load_state_dict(_read(path, model))
    return card, model.to(device).eval()


def rewrite_card(path: str, card: Card) -> None:
    """Give the checkpoint at `path` another card; its tensors stay as they are, byte for byte.

    As with `save`, `path` is whole at any moment, with the one card or the other. Of a link, what it leads to changes.

    Raises:
        LacunaError: as for `read_header` and `save`.
    """
    path = os.path.realpath(path)
    header = read_header(path)
    header["__metadata__"] = {**metadata_of(header, path), **card_metadata(card)}
    _write(path, itertools.chain([_encode(header)], _tensor_bytes(path)))


def _to_store(name: str, tensor: Tensor, half: bool) -> Tensor:
    """Return a copy of `tensor` as the file is to hold it: on the CPU, contiguous, sharing memory with no other."""
    copy = tensor.detach().to("cpu", torch.float16 if half and tensor.dtype == torch.float32 else None, copy=True)
    if copy.is_floating_point() and not torch.isfinite(copy).all():
        reason = "or too large for half precision" if half else "so training went wrong"
        raise LacunaError(
            "bad-weights", f"The tensor {name} holds numbers that are not finite, {reason}.", "Nothing was saved."
        )
    return copy.contiguous()


def _sorted(data: bytes) -> bytes:
    """Return a safetensors file with its metadata in order: the library writes them in an order drawn at random."""
    (length,) = struct.unpack("<Q", data[:8])
    return _encode(json.loads(data[8 : 8 + length])) + data[8 + length :]


def _encode(header: Mapping[str, Any]) -> bytes:
    """Return the first part of a safetensors file: the length of its header, and the header, in order."""
    rest = {name: entry for name, entry in header.items() if name != "__metadata__"}
    ordered = {"__metadata__": dict(sorted(header["__metadata__"].items())), **dict(sorted(rest.items()))}
    text = json.dumps(ordered, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _tensor_bytes(path: str) -> Iterator[bytes]:
    """Yield what follows the header of the safetensors file at `path`, in blocks."""
    with open(path, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        stream.seek(8 + length)
        while block := stream.read(_BLOCK):
            yield block


def _write(path: str, blocks: Iterable[bytes]) -> None:
    """Write `blocks` to `path` by way of `path.part`, which does not outlive an error."""
    part = path + ".part"
    try:
        with open(part, "wb") as stream:
            stream.writelines(blocks)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise disk_error(problem, path) from None


def _read(path: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the file's tensors in the types of the model, all numbers finite."""
    state = {}
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as stream:
            for name, own in model.state_dict().items():
                state[name] = stream.get_tensor(name).to(own.dtype)
    except (safetensors.SafetensorError, OSError) as problem:
        raise LacunaError(
            "not-safetensors", f"The tensors of {path} cannot be read: {problem}.", "Copy or download it again."
        ) from None
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise LacunaError(
            "bad-weights", f"{path} holds numbers that are not finite, in {broken[0]}.", "Copy or download it again."
        )
    return state


def _check_tensors(path: str, header: dict[str, Any], model: nn.Module) -> None:
    """Raise `wrong-tensors` unless the `header` of the file at `path` lists just what `model` needs."""
    own = model.state_dict()
    held = {name: entry for name, entry in header.items() if name != "__metadata__"}
    faults = [f"{name} is missing" for name in own if name not in held]
    faults += [f"{name[:80]} is unexpected" for name in held if name not in own]
    for name, tensor in own.items():
        if name not in held:
            continue
        if held[name]["shape"] != list(tensor.shape):
            faults.append(f"{name} has shape {held[name]['shape']}, {list(tensor.shape)} was expected")
        types = _FLOATS if tensor.dtype == torch.float32 else (_TYPES.get(tensor.dtype, str(tensor.dtype)),)
        if held[name]["dtype"] not in types:
            faults.append(f"{name} is of type {held[name]['dtype']}, {' or '.join(types)} was expected")
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise LacunaError(
            "wrong-tensors",
            f"{path} does not hold the weights that its card describes: {'; '.join(faults[:_NAMED])}{more}.",
            "Get the checkpoint again; if it was edited, its card and its weights no longer belong together.",
        )

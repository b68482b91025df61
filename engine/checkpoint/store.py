# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints on disk: a model's weights and its card in one safetensors file, written whole and checked before use."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import LacunaError, disk_error
from ..models.base import SegmentationModel
from ..models.registry import build
from .card import Card
from .header import metadata_of, read_header, sha256

__all__ = ["load", "save", "sha256", "write_tensors"]

# Types in which a file may hold a tensor that the model has as float32: half precision only to be smaller.
_FLOATS = ("F32", "F16", "BF16")
_TYPES = {torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL", torch.float64: "F64"}
_NAMED = 3


def save(path: str, model: nn.Module | Mapping[str, Tensor], card: Card, *, half: bool = False) -> None:
    """Write a checkpoint: first as `path.part`, then renamed, so that `path` is whole or as it was.

    The same weights and card give the same bytes.

    Args:
        path: the `.safetensors` file; replaced if it exists.
        model: the model, or its state.
        card: what the checkpoint says of itself; checked before anything is written.
        half: store float32 tensors as float16, at half the size; `load` makes them float32 again.

    Raises:
        LacunaError: `bad-card`; `bad-weights`, for numbers that are not finite (or too large for float16); `disk-full`,
            `not-permitted` or `file-error`.
    """
    metadata = card.to_metadata()
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {name: _to_store(name, tensor, half) for name, tensor in state.items()}
    write_tensors(path, tensors, metadata)


def write_tensors(path: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous CPU `tensors` and `metadata` as a safetensors file; the same ones give the same bytes.

    Raises:
        LacunaError: `disk-full`, `not-permitted` or `file-error`.
    """
    _write(path, _sorted(safetensors.torch.save(dict(tensors), dict(metadata))))


def load(path: str, device: str | torch.device = "cpu") -> tuple[Card, SegmentationModel]:
    """Return the card and the model of the checkpoint at `path`, in evaluation mode.

    Weights that the file holds in half precision become float32. All names, types and shapes are checked before any
    tensor is copied; the architecture comes from the closed registry, so nothing in the file is run.

    Raises:
        LacunaError: as for `read_card`; `unknown-architecture` or `bad-config`; `wrong-tensors`, when the file does not
            hold what the architecture needs; `bad-weights`, when a number is not finite.
    """
    header = read_header(path)
    card = Card.from_metadata(metadata_of(header, path), path)
    channels = {item.name: len(item.bands) for item in card.modalities}
    # The draws of the new network's first weights must not move torch's generator for whoever loads a checkpoint.
    with torch.random.fork_rng(devices=[]):
        model = build(card.architecture["name"], card.architecture["config"], channels, len(card.classes))
    _check_tensors(path, header, model)
    model.load_state_dict(_read(path, model))
    return card, model.to(device).eval()


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
    header = json.loads(data[8 : 8 + length])
    ordered = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **dict(sorted(header.items()))}
    text = json.dumps(ordered, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _write(path: str, data: bytes) -> None:
    """Write `data` to `path` by way of `path.part`, which does not outlive an error."""
    part = path + ".part"
    try:
        with open(part, "wb") as stream:
            stream.write(data)
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

# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of weights that others have published: read as data, whatever they hold, and never run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..checkpoint.card_file import ENCODER_KEY
from ..checkpoint.header import metadata_of, read_header
from ..errors import LacunaError
from ..events import Reporter

# Under which training scripts keep the weights beside optimiser, epoch and the like; the first that is there.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
# Data-parallel training puts it before every name.
_PREFIX = "module."
_NAMED = 5


def read_weights(path: str, reporter: Reporter) -> dict[str, Tensor]:
    """Return the tensors of a file by name, floating-point numbers as float32, all finite.

    `.safetensors` is read as such. Anything else must be what `torch.save` wrote, and is read with `weights_only=True`.
    A wrapper (`model`, `state_dict`, `model_state_dict`, `net`) and the prefix `module.` are taken off, and this is
    said.

    Raises:
        LacunaError: `file-missing`, `file-unreadable`; `not-safetensors`, `pickle`, `cut-short`; `unsafe-weights`, the
            file holds objects that only running it would make; `not-weights`, it holds no tensors, or something else
            among them; `bad-weights`, numbers that are not finite; `already-imported`.
    """
    content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    state = _without_prefix(_unwrapped(content, path, reporter))
    _check(state, path)
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _is_safetensors(path: str) -> bool:
    """Return whether the file at `path` has that name, or begins with the length of a header and a header."""
    if path.lower().endswith(".safetensors"):
        return True
    try:
        with open(path, "rb") as stream:
            return stream.read(9)[8:] == b"{"
    except FileNotFoundError:
        raise LacunaError("file-missing", f"The weights {path} do not exist.", "Check the path.") from None
    except OSError as problem:
        text = f"The weights {path} cannot be read: {problem.strerror}."
        raise LacunaError("file-unreadable", text, "Check the path and your rights.") from None


def _read_safetensors(path: str) -> dict[str, Tensor]:
    try:
        metadata = metadata_of(read_header(path), path)
    except LacunaError as problem:
        if problem.code == "pickle":
            text = f"{path} is named like a safetensors file, but holds a pickle."
            raise LacunaError("pickle", text, "Rename it to end in .pt: then only its weights are read.") from None
        raise
    if "lacuna" in metadata or ENCODER_KEY in metadata:
        kind, use = ("an encoder file", "train with it") if ENCODER_KEY in metadata else ("a checkpoint", "use it")
        raise LacunaError("already-imported", f"{path} is {kind} of Lacuna already.", f"Just {use}, as it is.")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as problem:
        text = f"The tensors of {path} cannot be read: {problem}."
        raise LacunaError("not-safetensors", text, "Copy or download the file again.") from None


def _read_torch(path: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    # A file that is damaged, or no such file at all, fails in a dozen ways.
    except Exception as problem:
        raise _refused(path, problem) from None


def _refused(path: str, problem: Exception) -> LacunaError:
    """Return the error for a file that `torch.load` will not read as weights alone."""
    blocked = _blocked(path, problem)
    if blocked:
        return LacunaError(
            "unsafe-weights",
            f"{path} holds more than weights. To read it, these would have to be run: {_few(blocked)}.",
            "Lacuna runs nothing from such a file. Ask its author for the weights alone; or, if you trust it, load it "
            "with its own program and save its state dict with torch.save or as safetensors, then import that.",
        )
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return LacunaError(
        "not-weights",
        f"{path} cannot be read as weights that torch.save wrote: {lines[0][:300].rstrip('.')}.",
        "Give a .safetensors, .pt, .pth or .ckpt file; if it is one, copy or download it again.",
    )


def _blocked(path: str, problem: Exception) -> list[str]:
    """Return the names of what the file would run; only the first where it is of torch's old format."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (ValueError, RuntimeError):
        return re.findall(r"GLOBAL ([\w.]+)", str(problem))[:1]


def _unwrapped(content: Any, path: str, reporter: Reporter) -> Mapping[str, Any]:
    """Return the innermost state in `content`."""
    while isinstance(content, Mapping):
        key = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            return content
        rest = [str(name) for name in content if name != key]
        beside = f"; left out beside it: {_few(rest)}" if rest else ""
        reporter.info(f"{path}: the weights are those under {key!r}{beside}.")
        content = content[key]
    raise LacunaError(
        "not-weights",
        f"{path} holds {type(content).__name__}, expected tensors by name.",
        f"Give a file with a state dict, alone or under {', '.join(_WRAPPERS)}.",
    )


def _without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return `state` without the prefix that all of its names have."""
    prefixed = all(isinstance(name, str) and name.startswith(_PREFIX) for name in state)
    return {name[len(_PREFIX) :]: value for name, value in state.items()} if prefixed else dict(state)


def _check(state: Mapping[Any, Any], path: str) -> None:
    """Raise LacunaError unless `state` holds plain tensors by name, and finite numbers."""
    others = [str(name)[:80] for name, value in state.items() if not (isinstance(name, str) and _is_plain(value))]
    if others or not state:
        found = f"among its weights {_few(others)}, which is no plain tensor" if others else "no tensor at all"
        hint = f"Give a file with a state dict, alone or under {', '.join(_WRAPPERS)}."
        raise LacunaError("not-weights", f"{path} holds {found}.", hint)
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            text = f"{path} holds numbers that are not finite, in {name[:80]}."
            raise LacunaError("bad-weights", text, "Copy or download the file again.")


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _few(names: list[str]) -> str:
    """Return the first of `names`, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more

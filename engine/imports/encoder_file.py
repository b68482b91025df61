# SPDX-License-Identifier: GPL-2.0-or-later
"""Encoder files: the weights of an encoder alone, and whose they are, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import safetensors.torch
from torch import Tensor

from ..checkpoint.card_file import ENCODER_KEY
from ..checkpoint.header import metadata_of, parse_json, read_header
from ..checkpoint.store import write_tensors
from ..errors import LacunaError


@dataclass(frozen=True)
class EncoderInfo:
    """What an encoder file says of itself.

    Attributes:
        name: of the encoder, such as `mit_b2`; empty in a file that Lacuna did not write.
        channels: of the images that it takes; 0 where unknown.
        source: name of the file that the weights come from.
        licence: of the weights.
        parents: SHA-256 of that file.
        created: when.
    """

    name: str = ""
    channels: int = 0
    source: str = ""
    licence: str = ""
    parents: list[str] = field(default_factory=list)
    created: str = ""


def save_encoder(path: str, weights: Mapping[str, Tensor], info: EncoderInfo) -> None:
    """Write an encoder file; errors as for `store.save`."""
    write_tensors(path, weights, {ENCODER_KEY: json.dumps(asdict(info))})


def load_encoder(path: str) -> tuple[EncoderInfo, dict[str, Tensor]]:
    """Return what the encoder file at `path` says of itself, and its tensors, as float32.

    A safetensors file of published weights will do as well; it says nothing of itself.

    Raises:
        LacunaError: the file is missing, a pickle, cut short, no safetensors file, or a whole checkpoint.
    """
    metadata = metadata_of(read_header(path), path)
    if "lacuna" in metadata:
        text = f"{path} is a whole checkpoint, not the weights of an encoder alone."
        raise LacunaError("bad-encoder-weights", text, "Give an encoder file, such as `lacuna import` writes.")
    try:
        said = parse_json(metadata.get(ENCODER_KEY, "{}"))
        info = EncoderInfo(**{key: said[key] for key in asdict(EncoderInfo()) if key in said})
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as problem:
        text = f"The encoder weights {path} cannot be read: {problem}."
        raise LacunaError("not-safetensors", text, "Copy or download the file again.") from None
    return info, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}

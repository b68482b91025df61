# SPDX-License-Identifier: GPL-2.0-or-later
"""MiT weights as Hugging Face's transformers names them, brought to the names of their authors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

_START = re.compile(r"(segformer\.)?encoder\.(?=patch_embeddings\.|block\.|layer_norm\.)")
_CLASSIFIER = re.compile(r"classifier\.(weight|bias)")
_LISTS = [("patch_embeddings", "patch_embed"), ("block", "block"), ("layer_norm", "norm")]
_PARTS = [
    (".layer_norm_1.", ".norm1."),
    (".layer_norm_2.", ".norm2."),
    (".attention.self.query.", ".attn.q."),
    (".attention.self.sr.", ".attn.sr."),
    (".attention.self.layer_norm.", ".attn.norm."),
    (".attention.output.dense.", ".attn.proj."),
    (".mlp.dense1.", ".mlp.fc1."),
    (".mlp.dense2.", ".mlp.fc2."),
    (".layer_norm.", ".norm."),
]
_KEY, _VALUE = ".attention.self.key.", ".attention.self.value."


def original_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` under the names of MiT's authors, where keys and values are one layer; others stay as is."""
    found = {}
    if not any(_START.match(name) for name in weights):
        return dict(weights)
    for name, value in weights.items():
        if _KEY in name and name.replace(_KEY, _VALUE) in weights:
            found[_original(name.replace(_KEY, ".attn.kv."))] = torch.cat([value, weights[name.replace(_KEY, _VALUE)]])
        elif _VALUE not in name and not _CLASSIFIER.fullmatch(name):
            found[_original(name)] = value
    return found


def _counted(stem: str, hit: re.Match[str]) -> str:
    """Return the original name of the list `hit`, called `stem` there."""
    return f"{stem}{int(hit[1]) + 1}."


def _original(name: str) -> str:
    """Return the original name of one tensor; the lists of the four stages count from 1 there."""
    name = _START.sub("", name)
    for theirs, authors in _LISTS:
        name = re.sub(rf"^{theirs}\.(\d)\.", partial(_counted, authors), name)
    for theirs, authors in _PARTS:
        name = name.replace(theirs, authors)
    return name

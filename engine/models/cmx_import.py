# SPDX-License-Identifier: GPL-2.0-or-later
"""Published weights of CMX (two MiT encoders, MLP head): recognised by their shapes, and brought into our network.

The official code names its two streams by none and by `extra_`; its layers on the concatenation of both are here one
part for each stream, so most tensors are cut along one axis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import LacunaError
from .encoders.mit import MITS
from .encoders.weights import mit_name
from .layers import module_key
from .registry import build

# What the published network does that is an option here.
PUBLISHED = {
    "norm": "batch",
    "head_eps": 1e-3,
    "context_crop": None,
    "pad": False,
    "published_drop_path": True,
}
_AFFINE = ("weight", "bias")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_MERGE_BIAS = "decode_head.linear_fuse.0.bias"
_FIXED = ("norm", "context_crop")
_SHOWN = 5

# A published tensor, ours that it is the concatenation of, and along which axis.
Row = tuple[str, Sequence[str], int]


def import_cmx(
    state: Mapping[str, Tensor], config: Mapping[str, Any], channels: Mapping[str, int], classes: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return configuration and state of a `Cmx` from weights of the official code.

    Encoder and head width are recognised by shapes. The head's norm gets epsilon 1e-3, as in the published training;
    give `head_eps` = 1e-5 for the numbers of its evaluation script. See `SegmentationModel.import_published`.
    """
    state = _plain(state)
    found = {
        **PUBLISHED,
        "encoder": _variant(state),
        "head_width": _shape(state, "decode_head.linear_fuse.0.weight")[0],
        "stem": _stem(state, channels),
    }
    _agree(found, config, (*_FIXED, "encoder", "head_width", "stem"))
    found = {**found, **config}
    count = _shape(state, "decode_head.linear_pred.weight")[0]
    if count != classes:
        raise _unfit(f"they tell {count} classes apart, the card names {classes}", f"Name {count} classes in the card.")
    with torch.device("meta"):
        template = build("cmx", found, channels, classes).state_dict()
    rows = _rows([module_key(name) for name in channels], template)
    _check(state, rows, template)
    return found, _converted(state, rows, template)


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` without the prefix of data-parallel training."""
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name[len(prefix) :]: value for name, value in state.items()}


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Return the shape of a tensor that any published CMX has, of two axes at least."""
    if name not in state or state[name].ndim < 2:
        what = f"{name} is not among their {len(state)} tensors, or is no matrix"
        raise _unfit(what, "Give the state dict that the official CMX has saved, with MiT encoders and the MLP head.")
    return tuple(state[name].shape)


def _variant(state: Mapping[str, Tensor]) -> str:
    """Return the name of the MiT whose widths and depths the weights have."""
    widths = tuple(_shape(state, f"backbone.patch_embed{stage}.proj.weight")[0] for stage in range(1, 5))
    blocks = [re.match(r"backbone\.block([1-4])\.(\d+)\.", name) for name in state]
    numbers = {(int(found[1]), int(found[2])) for found in blocks if found}
    depths = tuple(sum(stage == number for number, _ in numbers) for stage in range(1, 5))
    for name, variant in MITS.items():
        if (variant.widths, variant.depths) == (widths, depths):
            return name
    raise _unfit(
        f"their first stream has widths {widths} and {depths} blocks, which is no MiT from b0 to b5",
        "Only CMX with MiT encoders can be imported.",
    )


def _stem(state: Mapping[str, Tensor], channels: Mapping[str, int]) -> str:
    """Return how streams take their channels: as they are, or a single one repeated to three."""
    if len(channels) != 2:
        raise _unfit(f"they have two inputs, the card names {len(channels)}", "Name two modalities in the card.")
    prefixes = ("backbone.patch_embed1", "backbone.extra_patch_embed1")
    taken = [_shape(state, f"{prefix}.proj.weight")[1] for prefix in prefixes]
    given = list(channels.values())
    if taken == given:
        return "own"
    if taken == [3 if count == 1 else count for count in given]:
        return "repeat"
    raise _unfit(
        f"they take {taken[0]} and {taken[1]} channels, the card names {given[0]} and {given[1]}",
        "Name that many bands in the card; one band is repeated to three.",
    )


def _agree(found: Mapping[str, Any], config: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Raise LacunaError `bad-import` where `config` says otherwise than the weights do."""
    for key in keys:
        if key in config and config[key] != found[key]:
            raise _unfit(
                f"they have {key} = {found[key]!r}, the card says {config[key]!r}",
                f"Leave {key} out of the card's config, or give the weights that it describes.",
            )


def _rows(keys: Sequence[str], template: Mapping[str, Tensor]) -> list[Row]:
    """Return where each published tensor goes; what is ours alone is left out."""
    rows: list[Row] = []
    for key, extra in zip(keys, ("", "extra_")):
        start = f"encoders.{key}."
        own = [name[len(start) :] for name in template if name.startswith(start)]
        # The canonical name leaves out the key of the stem.
        bare = [re.sub(r"^stems\.[^.]+\.", "stem.", name) for name in own]
        rows += [(f"backbone.{extra}{mit_name(short)}", [start + name], 0) for short, name in zip(bare, own)]
    for level in range(4):
        rows += _rectification(f"backbone.FRMs.{level}.", f"rectifications.{level}.", keys)
        rows += _fusion(f"backbone.FFMs.{level}.", f"fusions.{level}.", keys)
    return rows + _head()


def _rectification(source: str, goal: str, keys: Sequence[str]) -> list[Row]:
    """Return the rows of one FRM."""

    def each(*layers: str) -> list[str]:
        return [f"{goal}{layer}.{key}.weight" for layer in layers for key in keys]

    channel, place = f"{source}channel_weights.mlp.", f"{source}spatial_weights.mlp."
    return [
        (f"{channel}0.weight", each("mean", "peak"), 1),
        (f"{channel}0.bias", [f"{goal}channel_bias"], 0),
        (f"{channel}2.weight", each("channel"), 0),
        (f"{channel}2.bias", [f"{goal}channel.{key}.bias" for key in keys], 0),
        (f"{place}0.weight", each("look"), 1),
        (f"{place}0.bias", [f"{goal}place_bias"], 0),
        (f"{place}2.weight", each("place"), 0),
        (f"{place}2.bias", [f"{goal}place.{key}.bias" for key in keys], 0),
    ]


def _fusion(source: str, goal: str, keys: Sequence[str]) -> list[Row]:
    """Return the rows of one FFM."""
    rows: list[Row] = []
    cross, embed = f"{source}cross.", f"{source}channel_emb."
    for number, key in enumerate(keys, start=1):
        ends = [f"{goal}{layer}.{key}.weight" for layer in ("keep", "take")]
        rows += [
            (f"{cross}cross_attn.kv{number}.weight", [f"{goal}kv.{key}.weight"], 0),
            (f"{cross}end_proj{number}.weight", ends, 1),
            (f"{cross}end_proj{number}.bias", [f"{goal}keep.{key}.bias"], 0),
        ]
        for theirs, ours in (("channel_proj", "project"), ("norm", "norm")):
            rows += [(f"{cross}{theirs}{number}.{part}", [f"{goal}{ours}.{key}.{part}"], 0) for part in _AFFINE]
    rows += [
        (f"{embed}residual.weight", [f"{goal}residual.{key}.weight" for key in keys], 1),
        (f"{embed}channel_embed.0.weight", [f"{goal}embed.{key}.weight" for key in keys], 1),
        (f"{embed}channel_embed.0.bias", [f"{goal}embed_bias"], 0),
    ]
    for theirs, ours in (("channel_embed.1", "depthwise"), ("channel_embed.3", "pointwise")):
        rows += [(f"{embed}{theirs}.{part}", [f"{goal}{ours}.{part}"], 0) for part in _AFFINE]
    for theirs, ours in (("channel_embed.4", "inner_norm"), ("norm", "outer_norm")):
        rows += [(f"{embed}{theirs}.{part}", [f"{goal}{ours}.{part}"], 0) for part in (*_AFFINE, *_STATISTICS)]
    return rows


def _head() -> list[Row]:
    """Return the rows of the decode head, without the bias of its merging layer."""
    rows: list[Row] = [("decode_head.linear_fuse.0.weight", ["head.merge.weight"], 0)]
    for level in range(4):
        theirs = f"decode_head.linear_c{level + 1}.proj"
        rows += [(f"{theirs}.{part}", [f"head.project.{level}.{part}"], 0) for part in _AFFINE]
    rows += [(f"decode_head.linear_pred.{part}", [f"head.classify.{part}"], 0) for part in _AFFINE]
    return rows + [(f"decode_head.linear_fuse.1.{part}", [f"head.norm.{part}"], 0) for part in (*_AFFINE, *_STATISTICS)]


def _wanted(row: Row, template: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the shape that the published tensor of `row` must have."""
    name, goals, axis = row
    shape = list(template[goals[0]].shape)
    if shape:
        shape[axis] = sum(template[goal].shape[axis] for goal in goals)
    return tuple(shape[:2] if ".linear_c" in name else shape)


def _check(state: Mapping[str, Tensor], rows: Sequence[Row], template: Mapping[str, Tensor]) -> None:
    """Raise LacunaError `bad-import` unless `state` has exactly the published tensors, in their shapes."""
    wanted = {row[0]: _wanted(row, template) for row in rows}
    wanted[_MERGE_BIAS] = wanted["decode_head.linear_fuse.1.bias"]
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {shape}"
        for name, shape in wanted.items()
        if name in state and name not in counters and tuple(state[name].shape) != shape
    ]
    parts = [
        ("missing", sorted(set(wanted) - set(state) - counters)),
        ("left over", sorted(set(state) - set(wanted))),
        ("of another shape", wrong),
    ]
    said = [
        f"{len(names)} {what} ({'; '.join(names[:_SHOWN])}{'; ...' * (len(names) > _SHOWN)})"
        for what, names in parts
        if names
    ]
    if said:
        raise _unfit("tensors are " + ", ".join(said), "Give weights that the official CMX has saved, all of them.")


def _converted(state: Mapping[str, Tensor], rows: Sequence[Row], template: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of our network.

    The head merges coarsest first there and finest first here; the bias of its merging layer, which the norm after it
    takes away in training, goes into the norm's mean.
    """
    result: dict[str, Tensor] = {}
    for name, goals, axis in rows:
        if name not in state:
            result[goals[0]] = torch.zeros((), dtype=torch.int64)
            continue
        value, sizes = state[name], [template[goal].shape[axis : axis + 1].numel() for goal in goals]
        pieces = value.split(sizes, axis) if len(goals) > 1 else [value]
        for goal, piece in zip(goals, pieces):
            result[goal] = piece.reshape(template[goal].shape).to(template[goal].dtype).clone()
    merge = result["head.merge.weight"]
    result["head.merge.weight"] = merge.unflatten(1, (4, -1)).flip(1).flatten(1, 2)
    result["head.norm.running_mean"] -= state[_MERGE_BIAS]
    return {name: result[name] for name in template}


def _unfit(what: str, hint: str) -> LacunaError:
    return LacunaError("bad-import", f"The weights cannot be imported as CMX: {what}.", hint)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Weights of the published DIS2, for two modalities, under the names that they have here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import LacunaError
from .dis2_layers import STRIDE
from .hybrid_fusion import grid_of
from .layers import module_key
from .registry import build

# Names of the two inputs, and of what serves the scenarios, in the published state.
_INPUTS = ("rgb", "ndsm")
_BRANCHES = {"full": "full", "s10": "miss_ndsm", "s01": "miss_rgb"}
_COUNTERS = "num_batches_tracked"
_NAMED = 3
# Whose number of outputs is which setting.
_TELLING = {
    "width": "rgb_encoder.e1",
    "pool_width": "full_fuse.pool_e3.mlp.0",
    "feed_forward": "full_fuse.transformer.layers.0.linear1",
    "class_channels": "full_classwise_decoder.e1_conv.conv",
}
# Held there, but without effect.
_DEAD_PARTS, _DEAD_ENDS = (".seg_d4.", ".e1_conv_up."), (".query", ".mlp.2.bias")

_ENCODER = {
    "convs.0": "e1",
    "convs.1": "e2.0",
    "norms.0": "e2.1",
    "convs.2": "e3.0",
    "norms.1": "e3.1",
    "convs.3": "e4",
}
_AUXILIARY = {**{f"ups.{i}": f"d{i + 5}.0" for i in range(3)}, **{f"norms.{i}": f"d{i + 5}.1" for i in range(3)}}
_LAYER = {
    "qkv.weight": "self_attn.in_proj_weight",
    "qkv.bias": "self_attn.in_proj_bias",
    "out": "self_attn.out_proj",
    "expand": "linear1",
    "contract": "linear2",
    "norm1": "norm1",
    "norm2": "norm2",
}
_DECODER = {
    "lifts.0": "e4_conv_up",
    "lifts.1": "e3_conv_up",
    "lifts.2": "e2_conv_up",
    "merges.0": "e3_conv",
    "merges.1": "e2_conv",
    "merges.2": "e1_conv",
    "combine": "class_combine_conv",
    "final": "final_conv",
    **{f"heads.{i}": f"seg_d{4 - i}_layers" for i in range(4)},
}
_FUSION = {
    **{own: f"fusion_{own}" for own in ["token"]},
    "positions.0": "rgb_pos",
    "positions.1": "ndsm_pos",
    "pool.score": "pool_e3.mlp",
    "project": "pool_e3.proj",
    "merge": "unify",
    **{f"mix.{i}": f"conv_fusion_e{i + 1}.fusion_layer" for i in range(3)},
    **{f"down.{i}": f"conv_res{i + 1}" for i in range(2)},
    **{f"layers.{i}.{own}": f"transformer.layers.{i}.{name}" for i in range(2) for own, name in _LAYER.items()},
}


def convert(
    state: Mapping[str, Tensor], config: Mapping[str, Any], channels: Mapping[str, int], classes: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return published weights as configuration and state of `dis2`; see `SegmentationModel.import_published`.

    Args:
        state: as the published code saves it, with or without a prefix `module.`. Parameters that it never uses and
            counts of batches are dropped.
        config: settings of the published network, with `image_size` (rows, columns), of which the weights only tell
            how many cells it has. Its widths follow from the weights.
        channels: the colour modality first, then the surface model.
        classes: number of classes.

    Raises:
        LacunaError: `bad-import`, naming what is missing, left over or of another shape; `bad-config`.
    """
    if len(channels) != 2:
        raise _bad_import(f"are for two modalities, the card has {len(channels)}")
    given = _living(state)
    _check_card(given, channels, classes)
    with torch.device("meta"):
        model = build("dis2", {**_widths(given), **config}, channels, classes)
    own = model.state_dict()
    _check_image_size(given, model.config()["image_size"])
    wanted = published_names(own, list(channels))
    _check_tensors(own, wanted, given)
    found = {}
    for name, other in wanted.items():
        counter = name.endswith(_COUNTERS)
        found[name] = torch.zeros((), dtype=torch.int64) if counter else given[other].detach().to("cpu", torch.float32)
    return model.config(), found


def published_names(own: Mapping[str, Tensor], modalities: list[str]) -> dict[str, str]:
    """Return the published name of every tensor of `own`, the state of a model with two `modalities`."""
    prefixes = _prefixes(modalities)
    found = {}
    for name in own:
        prefix = max((item for item in prefixes if f"{name}.".startswith(f"{item}.")), key=len)
        found[name] = (prefixes[prefix] + name[len(prefix) :]).replace(".score.", ".mlp.")
    return found


def _prefixes(modalities: list[str]) -> dict[str, str]:
    """Return what stands in the published names for the first parts of names here."""
    found = {"pools_teacher": "full_fusion_pool.attn_pools"}
    for name, other in zip(modalities, _INPUTS):
        key = module_key(name)
        found |= _nested(f"encoders.{key}", f"{other}_encoder", _ENCODER)
        found |= _nested(f"compensators.{key}", f"{other}_else", _ENCODER)
        found |= _nested(f"auxiliary.{key}", f"{other}_encoder", {**_AUXILIARY, "ups.3": "d8"})
        found[f"pools_available.{key}"] = f"{other}_dist_pool.attn_pools"
        found[f"pools_compensatory.{key}"] = f"{other}_else_pool.attn_pools"
    for key, other in _BRANCHES.items():
        found |= _nested(f"branches.{key}.fusion", f"{other}_fuse", _FUSION)
        found |= _nested(f"branches.{key}.decoder", f"{other}_classwise_decoder", _DECODER)
        found[f"branches.{key}.attention.queries"] = f"{other}_classwise_attention.class_queries"
        found[f"pools_student.{key}"] = f"{other}_fuse_pool.attn_pools"
    return found


def _nested(own: str, other: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{own}.{key}": f"{other}.{name}" for key, name in names.items()}


def _living(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` without the prefix of parallel training and without what is never used."""
    names = {name.removeprefix("module."): value for name, value in state.items()}
    return {
        name: value
        for name, value in names.items()
        if not name.endswith((_COUNTERS, *_DEAD_ENDS)) and not any(part in name for part in _DEAD_PARTS)
    }


def _widths(given: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings that the shapes of the weights tell."""
    outputs = {name: _shape(given, f"{prefix}.weight")[0] for name, prefix in _TELLING.items()}
    heads = [_shape(given, f"full_classwise_decoder.class_combine_conv.{index}.conv.weight")[0] for index in range(2)]
    return {**outputs, "head_widths": heads}


def _check_card(given: Mapping[str, Tensor], channels: Mapping[str, int], classes: int) -> None:
    """Raise `bad-import` where the card's classes or channels are not those of the weights."""
    held = _shape(given, "full_classwise_attention.class_queries")[0]
    if held != classes:
        raise _bad_import(f"are for {held} classes, the card has {classes}")
    for other, (name, count) in zip(_INPUTS, channels.items()):
        held = _shape(given, f"{other}_encoder.e1.weight")[1]
        if held != count:
            raise _bad_import(f"are for {held} channels of modality {name}, the card has {count}")


def _check_image_size(given: Mapping[str, Tensor], size: list[int] | None) -> None:
    """Raise `bad-import` where the card names no image size, or one with another number of cells than the weights."""
    cells = _shape(given, "full_fuse.rgb_pos")[1]
    rows, columns = grid_of(size)
    if size is None or rows * columns != cells:
        named = "no image_size" if size is None else f"image_size {size}, which has {rows * columns}"
        raise _bad_import(f"have positions for {cells} cells of {STRIDE} x {STRIDE} pixels, the card has {named}")


def _check_tensors(own: Mapping[str, Tensor], wanted: Mapping[str, str], given: Mapping[str, Tensor]) -> None:
    """Raise `bad-import` unless `given` holds just what `own` needs under its `wanted` names, of the same shapes."""
    needed = {wanted[name]: tensor for name, tensor in own.items() if not name.endswith(_COUNTERS)}
    faults = [f"{name} is missing" for name in needed if name not in given]
    faults += [f"{name[:80]} is unexpected" for name in given if name not in needed]
    faults += [
        f"{name} has shape {list(given[name].shape)}, {list(tensor.shape)} was expected"
        for name, tensor in needed.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise _bad_import(f"do not fit: {'; '.join(faults[:_NAMED])}{more}")


def _shape(given: Mapping[str, Tensor], name: str) -> list[int]:
    """Return the shape of a tensor that the weights must hold, at least two numbers."""
    if name not in given or given[name].ndim < 2:
        raise _bad_import(f"do not fit: {name} is {'of a wrong shape' if name in given else 'missing'}")
    return list(given[name].shape)


def _bad_import(what: str) -> LacunaError:
    return LacunaError(
        "bad-import",
        f"The weights of DIS2 {what}.",
        "Give the state of the published network, and a card with its modalities in order (colour, surface model), "
        "their bands, its classes and image_size (rows, columns).",
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Published weights of encoders: their names, and how they are fitted to stems and norms of several modalities.

Canonical names are those of an encoder here with stems and domains left out (`Encoder.published_name`), such as
`stem.proj.weight` or `layers.0.0.norm1.weight`. Recognised besides: PVT-v2 as timm and as its authors name it, MiT as
its authors and as Hugging Face's transformers name it, and ResNet as torchvision and timm name it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from ...errors import LacunaError
from .base import Encoder, LoadingEncoder
from .channels import fit_channels
from .segformer_names import original_names

_CLASSIFIER = re.compile(r"(head|fc)\.(weight|bias)")
_RENAMES: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (re.compile(r"patch_embed1?\.(?=proj|norm)"), lambda found: "stem."),
    (re.compile(r"patch_embed([2-4])\."), lambda found: f"stages.{int(found[1]) - 1}.downsample."),
    (re.compile(r"block([1-4])\."), lambda found: f"stages.{int(found[1]) - 1}.blocks."),
    (re.compile(r"norm([1-4])\."), lambda found: f"stages.{int(found[1]) - 1}.norm."),
    (re.compile(r"stages_([0-3])\."), lambda found: f"stages.{found[1]}."),
    (re.compile(r"layer([1-4])\."), lambda found: f"layers.{int(found[1]) - 1}."),
    (re.compile(r"conv1\."), lambda found: "stem.conv."),
    (re.compile(r"bn1\."), lambda found: "stem.norm."),
]
_PARTS = [("dwconv.dwconv.", "dwconv."), ("downsample.0.", "downsample.conv."), ("downsample.1.", "downsample.norm.")]


def canonical(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` under canonical names, the classifier left out; names that are canonical already stay."""
    weights = original_names(weights)
    return {_canonical_name(name): value for name, value in weights.items() if not _CLASSIFIER.fullmatch(name)}


def _canonical_name(name: str) -> str:
    """Return the canonical name of the tensor that is published as `name`."""
    for pattern, rename in _RENAMES:
        found = pattern.match(name)
        if found:
            name = rename(found) + name[found.end() :]
            break
    for old, new in _PARTS:
        name = name.replace(old, new)
    return re.sub(r"\.bn([1-3])\.", r".norm\1.", name)


def mit_name(name: str) -> str:
    """Return the name under which the authors of MiT and PVT-v2 publish the tensor of canonical `name`."""
    name = re.sub(r"^stem\.", "patch_embed1.", name)
    name = re.sub(r"^stages\.(\d)\.downsample\.", lambda found: f"patch_embed{int(found[1]) + 1}.", name)
    name = re.sub(r"^stages\.(\d)\.blocks\.", lambda found: f"block{int(found[1]) + 1}.", name)
    name = re.sub(r"^stages\.(\d)\.norm\.", lambda found: f"norm{int(found[1]) + 1}.", name)
    return name.replace(".dwconv.", ".dwconv.dwconv.")


def load_published(encoder: Encoder, weights: Mapping[str, Tensor]) -> None:
    """Copy the published `weights` of one encoder into all stems and norms of `encoder`.

    Args:
        encoder: receives them; nothing is changed where they do not fit.
        weights: tensors under published or canonical names.

    Raises:
        LacunaError: `bad-encoder-weights` where a tensor is missing, left over or of another shape.
    """
    if isinstance(encoder, LoadingEncoder):
        encoder.load(weights)
        return
    given = canonical(weights)
    own = encoder.state_dict()
    wanted = {name: encoder.published_name(name) for name in own}
    optional = {name for name in wanted.values() if name.endswith("num_batches_tracked")}
    missing = sorted(set(wanted.values()) - set(given) - optional)
    extra = sorted(set(given) - set(wanted.values()) - optional)
    if missing or extra:
        what = f"has no {missing[0]}" if missing else f"has {extra[0]}, which it does not"
        raise _unfit(f"{len(missing)} tensors are missing and {len(extra)} left over; the encoder {what}")
    fitted = {}
    for name, tensor in own.items():
        source = given.get(wanted[name], tensor)
        fitted[name] = fit_channels(source, tensor.shape[1]) if _is_first(name, tensor) else source
        if fitted[name].shape != tensor.shape:
            raise _unfit(f"{wanted[name]} has shape {tuple(source.shape)}, expected {tuple(tensor.shape)}")
    encoder.load_state_dict(fitted)


def _is_first(name: str, tensor: Tensor) -> bool:
    """Return whether `name` is the convolution that meets the image."""
    return tensor.ndim == 4 and re.fullmatch(r"stems\.[^.]+\.(proj|conv1?)\.weight", name) is not None


def _unfit(what: str) -> LacunaError:
    return LacunaError(
        "bad-encoder-weights",
        f"The encoder weights do not fit the encoder: {what}.",
        "Give the weights of the encoder that is named, or name the encoder that they belong to.",
    )

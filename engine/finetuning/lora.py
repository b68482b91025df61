# SPDX-License-Identifier: GPL-2.0-or-later
"""LoRA: small matrices learned beside frozen weights, and merged into them afterwards.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685, section 4.1:
W + (alpha / rank) B A, where A starts random and B at 0, so that the network begins as it was. A convolution's kernel
(out, in / groups, h, w) is taken as a matrix of out rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..checkpoint.card import Card
from ..checkpoint.card_file import ADAPTER_KEY, card_from_dict
from ..checkpoint.header import read_metadata, sha256
from ..checkpoint.store import load, write_tensors
from ..errors import LacunaError
from ..models.base import SegmentationModel
from ..models.config import bad_config, checked
from ..models.registry import build

_FORMAT = 1
_PUBLISHED_RANK = 4


@dataclass(frozen=True)
class LoraConfig:
    """The table `lora` of a configuration file.

    Attributes:
        rank: columns of B and rows of A; memory and freedom grow with it.
        alpha: the update is scaled by alpha / rank.
        layers: names of layers, with * and ?, such as `encoder.*` or `*.query`; of those only linear layers and
            convolutions that the adapter is smaller than.
        keep_apart: also write the adapters as a file of their own beside the checkpoint, in which they are merged.
        preset: `paper`: the other settings start from those with which LoRA was published for the architecture
            (`lora_settings`).
    """

    rank: int = 4
    alpha: float = 8.0
    layers: list[str] = field(default_factory=lambda: ["*"])
    keep_apart: bool = False
    preset: Literal["default", "paper"] = "default"

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"rank is {self.rank} and alpha {self.alpha}, expected at least 1 and above 0")
        if not self.layers:
            raise ValueError("layers is empty, expected names of layers, such as *")


def lora_settings(table: Mapping[str, Any], kind: type[SegmentationModel], subject: str) -> LoraConfig:
    """Return the settings that the table `lora` of a configuration file asks for.

    Under `preset = "paper"` adapters are those with which https://arxiv.org/abs/2605.20372 compares its method: rank 4,
    scale 1, on the layers that the architecture names.

    Args:
        table: what was asked for.
        kind: the architecture.
        subject: whose configuration it is, for messages.

    Raises:
        LacunaError: `bad-config`, a setting that cannot be, or no published adapters for this architecture.
    """
    if table.get("preset") != "paper":
        return checked(LoraConfig, table, subject)
    if not kind.published_adapters:
        raise bad_config(
            subject,
            f'has preset = "paper", but for architecture {kind.architecture} no adapters are published',
            "They are for CBC, CBC-SLP and CMX. Leave preset out, and name the layers.",
        )
    rank = table.get("rank", _PUBLISHED_RANK)
    start = {"rank": rank, "alpha": rank, "layers": list(kind.published_adapters)}
    return checked(LoraConfig, {**start, **table}, subject)


class LowRank(nn.Module):
    """The parametrisation of one weight: W + (alpha / rank) B A in the shape of W.

    Args:
        shape: of the weight; the first axis is that of the outputs.
        rank: of the update.
        alpha: scale of the update times `rank`.
    """

    def __init__(self, shape: Sequence[int], rank: int, alpha: float) -> None:
        super().__init__()
        columns = math.prod(shape[1:])
        self.A = nn.Parameter(torch.empty(rank, columns))
        self.B = nn.Parameter(torch.zeros(shape[0], rank))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight; in float32 whatever the precision, as it will be merged."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + (self.scale * (self.B @ self.A)).view_as(weight)


def add_lora(model: nn.Module, config: LoraConfig, but: Collection[str] = ()) -> list[str]:
    """Adapt the layers of `model` that `config` names, freeze all its other parameters, and return their names.

    Layers hold their weight under its old name, now computed, so whatever reads it sees the adapted one. Those whose
    weight is called as one of `but` are left alone.

    Raises:
        LacunaError: `bad-config`, no layer fits.
    """
    fitting = [
        name for name, module in model.named_modules() if f"{name}.weight" not in but and _fits(name, module, config)
    ]
    if not fitting:
        raise LacunaError(
            "bad-config",
            f"No linear layer or convolution larger than an adapter of rank {config.rank} is called "
            f"{' or '.join(config.layers)}.",
            "Give other names for lora.layers (* takes all), or a smaller rank.",
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name in fitting:
        layer: Any = model.get_submodule(name)
        adapter = LowRank(layer.weight.shape, config.rank, config.alpha).to(layer.weight.device)
        parametrize.register_parametrization(layer, "weight", adapter)
    return fitting


def merge_lora(model: nn.Module) -> None:
    """Make the adapted weights of `model` its own: bit by bit those that it computed with; adapters are gone."""
    layers: list[Any] = list(model.modules())
    for layer in layers:
        if parametrize.is_parametrized(layer, "weight") and isinstance(layer.parametrizations.weight[0], LowRank):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def adapters(model: nn.Module) -> dict[str, LowRank]:
    """Return the adapters of `model` by the name of their layer."""
    return {
        name: layer.parametrizations.weight[0]
        for name, layer in model.named_modules()
        if parametrize.is_parametrized(layer, "weight") and isinstance(layer.parametrizations.weight[0], LowRank)
    }


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return A and B of each adapter as `LAYER.lora_A` and `LAYER.lora_B`."""
    return {
        f"{name}.lora_{part}": getattr(adapter, part).detach().cpu().contiguous()
        for name, adapter in adapters(model).items()
        for part in ("A", "B")
    }


def save_adapters(
    path: str, tensors: Mapping[str, Tensor], trained: Mapping[str, Tensor], config: LoraConfig, base: str, card: Card
) -> None:
    """Write an adapter file: what must be added to a checkpoint to get the fine-tuned one (`docs/checkpoint.md`).

    Args:
        path: the `.safetensors` file.
        tensors: those of `adapter_tensors`.
        trained: weights that were trained as a whole, such as those of a head with other classes.
        config: rank and alpha.
        base: SHA-256 of the checkpoint that they belong to.
        card: of the fine-tuned checkpoint.
    """
    about = {"format": _FORMAT, "base_sha256": base, "rank": config.rank, "alpha": config.alpha, "card": card.to_dict()}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.items()}
    write_tensors(path, {**tensors, **whole}, {ADAPTER_KEY: json.dumps(about, allow_nan=False)})


def apply_adapters(base: str, path: str) -> tuple[Card, SegmentationModel]:
    """Return card and model of the fine-tuned checkpoint from its base and its adapter file.

    The weights are bit by bit those of the checkpoint in which the adapters were merged on the same device.

    Raises:
        LacunaError: `bad-adapter`, the file is none, or belongs to another checkpoint.
    """
    about, found = _about(path), sha256(base)
    if about["base_sha256"] != found:
        raise LacunaError(
            "bad-adapter",
            f"{path} belongs to the checkpoint with SHA-256 {about['base_sha256']}, not to {base} ({found}).",
            "Give the checkpoint that it was trained from.",
        )
    card = card_from_dict(about["card"], path)
    state, tensors = dict(load(base)[1].state_dict()), safetensors.torch.load_file(path)
    for name in [key.removesuffix(".lora_A") for key in tensors if key.endswith(".lora_A")]:
        down, up = tensors.pop(f"{name}.lora_A"), tensors.pop(f"{name}.lora_B")
        weight = state[f"{name}.weight"]
        adapter = LowRank(weight.shape, len(down), about["alpha"])
        adapter.A.data, adapter.B.data = down, up
        with torch.no_grad():
            state[f"{name}.weight"] = adapter(weight)
    merged = {**state, **tensors}
    channels = {item.name: len(item.bands) for item in card.modalities}
    with torch.random.fork_rng(devices=[]):
        model = build(card.architecture["name"], card.architecture["config"], channels, len(card.classes))
    model.load_state_dict({name: merged[name] for name in model.state_dict()})
    return card, model.eval()


def _about(path: str) -> dict[str, Any]:
    """Return what an adapter file says of itself."""
    try:
        about = json.loads(read_metadata(path)[ADAPTER_KEY])
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']}")
        return about
    except (KeyError, ValueError, TypeError) as problem:
        raise LacunaError("bad-adapter", f"{path} is no adapter file: {problem!r}.", "Choose another file.") from None


def _fits(name: str, module: nn.Module, config: LoraConfig) -> bool:
    """Return whether a layer is named, and larger than its adapter would be."""
    if not isinstance(module, (nn.Linear, nn.Conv2d)) or parametrize.is_parametrized(module):
        return False
    rows, columns = module.weight.shape[0], module.weight[0].numel()
    smaller = config.rank * (rows + columns) < rows * columns
    return smaller and any(fnmatchcase(name, pattern) for pattern in config.layers)

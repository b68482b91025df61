# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings of a fine-tuning: those of the checkpoint's architecture, gentler, changed by a configuration file.

The file (TOML) has the tables `training`, `split`, `lora` and `latent`, all optional (`docs/finetune.md`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint.card import Card
from ..data.manifest import SplitRule, split_rule
from ..data.tables import Table, read_toml
from ..jobs import FinetuneJob
from ..models.base import SegmentationModel, TrainingSettings
from ..models.config import bad_config, checked
from ..models.registry import architecture
from ..training.recipe import Recipe, TrainingConfig, radiometry_of, with_asked
from .latent_guidance import PRESETS, Guidance
from .lora import LoraConfig, lora_settings

EPOCHS = 30
PATIENCE = 10
# Steps in an epoch, whatever the area: few labels need as many as many do. With 30 epochs, 480.
STEPS = 16
# Learning rate as a share of that with which the checkpoint was trained.
RATES = {"full": 0.5, "decoder": 0.5, "head": 1.0, "lora": 1.0}
# The published fine-tuning: no average, no balance, no weights of classes, no magnification, the last epoch kept.
PUBLISHED: dict[str, Any] = {
    "average": 0.0,
    "balance": 0.0,
    "scale": [1.0, 1.0],
    "class_weights": "none",
    "keep": "last",
}
# In the record of a fine-tuning: the learning rate with which its first parent was trained from scratch.
SCRATCH = "scratch_lr"


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        recipe: optimiser, schedule, crops, validation.
        split: how scenes that name no split are divided; None: as the manifest says, or as suits the labels.
        fitted: whether blocks and gap of `split` are to suit the labels, as it names neither.
        lora: for the method `lora`.
        guidance: for the strategy `latent`.
        scratch_lr: learning rate with which the checkpoint was trained from scratch, as far as that is known.
    """

    recipe: Recipe
    split: SplitRule | None
    lora: LoraConfig
    guidance: Guidance
    scratch_lr: float
    fitted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return all but the split as JSON values for the card."""
        tables = {"lora": asdict(self.lora), "latent": asdict(self.guidance)}
        return {**self.recipe.to_dict(), **tables, SCRATCH: self.scratch_lr}


def read_settings(job: FinetuneJob, card: Card) -> FinetuneSettings:
    """Return how `job` asks to fine-tune the checkpoint with `card`.

    Raises:
        LacunaError: `unknown-architecture`; `file-missing`, `file-unreadable`; `bad-config`, naming key and value.
    """
    tables: dict[str, dict[str, Any]] = {"training": {}, "split": {}, "lora": {}, "latent": {}}
    digest = ""
    if job.config is not None:
        root = read_toml(job.config, "bad-config")
        tables = {name: root.take(name, dict, default={}) for name in tables}
        root.finish()
        digest = hashlib.sha256(Path(job.config).read_bytes()).hexdigest()
    where = str(job.config)
    kind, split, fitted = architecture(card.architecture["name"]), None, False
    if tables["split"]:
        fitted = not {"block", "gap"} & set(tables["split"])
        default = SplitRule("block", gap=card.margin, seed=job.seed)
        split = split_rule(Table(tables["split"], where, "bad-config", "split"), default)
    return FinetuneSettings(
        _recipe(job, card, tables["training"], digest),
        split,
        lora_settings(tables["lora"], kind, f"table lora of {where}"),
        checked(Guidance, {**PRESETS[job.latent_preset], **tables["latent"]}, f"table latent of {where}"),
        _own_rate(card, kind),
        fitted and split is not None and split.method == "block",
    )


def _inherited(card: Card) -> dict[str, Any]:
    """Return the radiometric changes that the checkpoint was trained with, as far as its card tells."""
    settings = card.training.get("settings")
    found = settings.get("radiometry") if isinstance(settings, dict) else None
    if not isinstance(found, dict) or not all(isinstance(found.get(name, {}), dict) for name in card.names):
        return {}
    return {name: found[name] for name in card.names if name in found}


def _inherited_detail(card: Card) -> dict[str, Any]:
    """Return the settings of the detail path that the checkpoint was trained with, as far as its card tells."""
    settings = card.training.get("settings")
    found = settings.get("detail") if isinstance(settings, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def _own_rate(card: Card, kind: type[SegmentationModel]) -> float:
    """Return the learning rate with which a checkpoint was trained from scratch, as far as its card tells.

    Another optimiser's rate means something else. That of a fine-tuning is already a share: its card carries the
    parent's. Imported weights were trained as their paper says.
    """
    training, usual = card.training, kind.settings("default").lr
    settings = training.get("settings")
    if "imported_from" in training:
        settings = asdict(kind.settings("paper"))
    if not isinstance(settings, dict):
        return usual
    found = settings.get(SCRATCH if training.get("lineage") else "lr")
    if not isinstance(found, (int, float)) or not 0 < found < math.inf:
        return usual
    carried = bool(training.get("lineage")) or settings.get("optimizer") in (None, "adamw", "adam")
    return float(found) if carried else usual


def is_published(job: FinetuneJob) -> bool:
    """Return whether `job` asks for the published fine-tuning: latent guidance under the preset `paper`."""
    return job.strategy == "latent" and job.latent_preset == "paper"


def _published_start(card: Card) -> TrainingSettings:
    """Return the settings of the published fine-tuning (https://arxiv.org/abs/2605.20372).

    Optimiser and schedule are those of the predecessor of its backbones, the only ones that are known of it; crops are
    as large as those that the checkpoint was trained with, as far as its card tells.
    """
    found = architecture("cbc").settings("paper")
    settings = card.training.get("settings")
    own = settings.get("crop") if isinstance(settings, dict) else None
    return replace(found, crop=own) if type(own) is int and own > 0 else found


def _gentle_start(job: FinetuneJob, card: Card, table: Mapping[str, Any]) -> TrainingSettings:
    """Return the settings of any other fine-tuning: a share of the checkpoint's rate, the whole of it for new parts.

    A rate that the configuration file gives is that of everything. The schedule is one that a stop before the last
    epoch does not spoil (`docs/finetune.md` has figures).
    """
    kind, share = architecture(card.architecture["name"]), RATES[job.method]
    return replace(
        kind.settings("default"),
        lr=_own_rate(card, kind) * share,
        new_lr_factor=1.0 if "lr" in table else 1 / share,
        epochs=EPOCHS,
        warmup_epochs=1,
        # A training that ends early, by patience or by a click, has not waited for a fall of the rate.
        schedule="flat",
    )


def _recipe(job: FinetuneJob, card: Card, table: dict[str, Any], digest: str) -> Recipe:
    """Return optimiser, schedule, crops and validation."""
    subject, published = f"table training of {job.config}", is_published(job)
    if "strategy" in table:
        raise bad_config(subject, "has strategy", "Give the strategy with --strategy.")
    gentle: dict[str, Any] = {"patience": PATIENCE, "radiometry": _inherited(card), "detail": _inherited_detail(card)}
    start = {"precision": "auto", "tile": max(card.tile), **(PUBLISHED if published else gentle)}
    config = checked(TrainingConfig, {**start, **table}, subject)
    usual = _published_start(card) if published else _gentle_start(job, card, table)
    settings = with_asked(usual, config, job.epochs, subject)
    if config.crops is None and not published:
        config = replace(config, crops=STEPS * settings.batch * settings.accumulation)
    changes = radiometry_of(config, card.names, str(job.config))
    return Recipe(settings, config, card.architecture["config"], changes, digest)

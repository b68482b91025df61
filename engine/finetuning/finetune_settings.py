# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings of a fine-tuning: those of the checkpoint's architecture, gentler, changed by a configuration file.

The file (TOML) has the tables `training`, `split`, `lora` and `latent`, all optional (`docs/finetune.md`).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..checkpoint.card import Card
from ..data.manifest import SplitRule, split_rule
from ..data.tables import Table, read_toml
from ..jobs import FinetuneJob
from ..models.base import TrainingSettings
from ..models.config import bad_config, checked
from ..models.registry import architecture
from ..training.recipe import Recipe, TrainingConfig, check_optimizer, radiometry_of
from .latent_guidance import PRESETS, Guidance
from .lora import LoraConfig, lora_settings

EPOCHS = 30
PATIENCE = 10
# Steps in an epoch, whatever the area: few labels need as many as many do. With 30 epochs, 480.
STEPS = 16
# Learning rate as a share of that with which the checkpoint was trained.
RATES = {"full": 0.5, "decoder": 0.5, "head": 1.0, "lora": 1.0}


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        recipe: optimiser, schedule, crops, validation.
        split: how scenes that name no split are divided; None: as the manifest says, or as suits the labels.
        fitted: whether blocks and gap of `split` are to suit the labels, as it names neither.
        lora: for the method `lora`.
        guidance: for the strategy `latent`.
    """

    recipe: Recipe
    split: SplitRule | None
    lora: LoraConfig
    guidance: Guidance
    fitted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return all but the split as JSON values for the card."""
        return {**self.recipe.to_dict(), "lora": asdict(self.lora), "latent": asdict(self.guidance)}


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
    split, fitted = None, False
    if tables["split"]:
        fitted = not {"block", "gap"} & set(tables["split"])
        default = SplitRule("block", gap=card.margin, seed=job.seed)
        split = split_rule(Table(tables["split"], where, "bad-config", "split"), default)
    return FinetuneSettings(
        _recipe(job, card, tables["training"], digest),
        split,
        lora_settings(tables["lora"], architecture(card.architecture["name"]), f"table lora of {where}"),
        checked(Guidance, {**PRESETS[job.latent_preset], **tables["latent"]}, f"table latent of {where}"),
        fitted and split is not None and split.method == "block",
    )


def _inherited(card: Card) -> dict[str, Any]:
    """Return the radiometric changes that the checkpoint was trained with, as far as its card tells."""
    settings = card.training.get("settings")
    found = settings.get("radiometry") if isinstance(settings, dict) else None
    if not isinstance(found, dict) or not all(isinstance(found.get(name, {}), dict) for name in card.names):
        return {}
    return {name: found[name] for name in card.names if name in found}


def _own_rate(card: Card, usual: float) -> float:
    """Return the learning rate with which a checkpoint was trained from scratch, as far as its card tells.

    Another optimiser's rate means something else, and that of a fine-tuning is already a part of its parent's.
    """
    settings = card.training.get("settings")
    if not isinstance(settings, dict) or card.training.get("lineage"):
        return usual
    found = settings.get("lr")
    if not isinstance(found, (int, float)) or not 0 < found < math.inf:
        return usual
    return float(found) if settings.get("optimizer") in (None, "adamw", "adam") else usual


def _recipe(job: FinetuneJob, card: Card, table: dict[str, Any], digest: str) -> Recipe:
    """Return optimiser, schedule, crops and validation."""
    subject = f"table training of {job.config}"
    if "strategy" in table:
        raise bad_config(subject, "has strategy", "Give the strategy with --strategy.")
    gentle = {"precision": "auto", "patience": PATIENCE, "tile": max(card.tile), "radiometry": _inherited(card)}
    config = checked(TrainingConfig, {**gentle, **table}, subject)
    settings = architecture(card.architecture["name"]).settings("default")
    rate = _own_rate(card, settings.lr) * RATES[job.method]
    start = {"lr": rate, "epochs": EPOCHS, "warmup_epochs": 1}
    own = {item.name for item in fields(TrainingSettings)}
    asked = {key: value for key, value in asdict(config).items() if key in own and value is not None}
    if job.epochs is not None:
        asked["epochs"] = job.epochs
    settings = replace(settings, **{**start, **asked})
    settings = replace(settings, warmup_epochs=min(settings.warmup_epochs, settings.epochs // 4))
    check_optimizer(settings, subject)
    if config.crops is None:
        config = replace(config, crops=STEPS * settings.batch * settings.accumulation)
    changes = radiometry_of(config, card.names, str(job.config))
    return Recipe(settings, config, card.architecture["config"], changes, digest)

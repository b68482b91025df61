# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings of a training: those of the architecture's preset, changed by a configuration file (TOML).

The file has two tables, both optional: `model`, the architecture's own settings, and `training` (`docs/manifest.md`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..data.tables import read_toml
from ..jobs import NO_WEIGHTS, TrainJob
from ..models.base import TrainingSettings
from ..models.config import bad_config, checked
from ..models.encoders import pretrained_encoders
from ..models.registry import architecture
from .augment import Radiometry

# What the methods' papers do not have is left out under their preset.
_PRESETS = {"default": {}, "paper": {"average": 0.0, "balance": 0.0, "class_weights": "none"}}
# What is pretrained changes slowly, unless the configuration says otherwise.
PRETRAINED_LR_FACTOR = 0.1
_ABOVE_0 = (
    *("lr", "eps", "clip", "epochs", "batch", "crop", "crops", "accumulation", "patience", "validate_every", "tile"),
    *("restart_steps", "decay_epochs", "decay_factor"),
)


@dataclass(frozen=True)
class TrainingConfig:
    """The table `training`. What is None is left to the architecture's preset (see `TrainingSettings`).

    The other defaults are those of the preset `default`. Under `paper` there is no running average, no balance and no
    class weights, as the papers know none; turned, mirrored and magnified crops stay, since theirs is not known whole.

    Attributes:
        crops: crops in an epoch; None: enough to cover the training pixels once, at least eight batches.
        balance: share of crops around a pixel of a class drawn first, all with the same probability.
        scale: smallest and largest magnification of crops.
        average: share that the running average of the weights keeps at a step (0: no average); the average is what is
            measured and saved.
        class_weights: weights of classes in the loss: `none`; `sqrt`, 1 / sqrt(frequency); `inverse`, 1 / frequency.
        strategy: which of a crop's modalities are given to the model (`scenarios`).
        precision: of the arithmetic of training: `fp32`; `bf16`; or `auto`, bf16 on a GPU that has it.
        patience: epochs without a better one after which the training ends; None: never.
        keep: which weights become the checkpoint: `best`, those of the epoch that is best on validation; or `last`.
        validate_every: epochs from one validation to the next; the last epoch is always validated.
        tile: side of the tiles of validation, and of those the card suggests; None: that of the images that the network
            is made for (`SegmentationModel.native_size`), else 256.
        radiometry: for a modality the changes of its scaled values (`augment.Radiometry`).
        prior: whether what Dynamic World says of Sentinel-2 helps the detail path: `auto`, where a modality has its
            bands; or `none`.
        detail: settings of the detail path (`DetailConfig`), but `priors`.
    """

    lr: float | None = None
    encoder_lr_factor: float | None = None
    new_lr_factor: float | None = None
    weight_decay: float | None = None
    eps: float | None = None
    epochs: int | None = None
    warmup_epochs: int | None = None
    warmup_ratio: float | None = None
    poly_power: float | None = None
    batch: int | None = None
    crop: int | None = None
    clip: float | None = None
    optimizer: Literal["adamw", "adam", "sgd"] | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    schedule: Literal["poly", "flat", "cosine_restarts", "step"] | None = None
    cooldown: float | None = None
    restart_steps: int | None = None
    decay_epochs: int | None = None
    decay_factor: float | None = None
    accumulation: int | None = None
    crops: int | None = None
    balance: float = 0.5
    scale: list[float] = field(default_factory=lambda: [0.8, 1.25])
    average: float = 0.99
    class_weights: Literal["none", "sqrt", "inverse"] = "sqrt"
    strategy: Literal["full", "uniform"] = "full"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    patience: int | None = None
    keep: Literal["best", "last"] = "best"
    validate_every: int = 1
    tile: int | None = None
    radiometry: dict[str, Any] = field(default_factory=dict)
    prior: Literal["auto", "none"] = "auto"
    detail: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _ABOVE_0:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, expected a number above 0")
        for name in (
            *("encoder_lr_factor", "new_lr_factor", "weight_decay"),
            *("warmup_epochs", "warmup_ratio", "poly_power"),
        ):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}, expected at least 0")
        for name in ("balance", "cooldown"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected a share from 0 to 1")
        for name in ("average", "momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} is {value}, expected a share from 0 to below 1")
        if "priors" in self.detail:
            raise ValueError("detail has priors, which prior = \"auto\" sets")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}, expected the smallest and the largest magnification")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        settings: optimiser, schedule, batch and crop.
        config: all else of the table `training`.
        model: settings of the architecture; `reduce` may be `auto` (`reduction_choice`).
        changes: radiometric changes by modality.
        sha256: of the configuration file, or "".
    """

    settings: TrainingSettings
    config: TrainingConfig
    model: dict[str, Any]
    changes: dict[str, Radiometry]
    sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return all settings in effect, as JSON values for the card."""
        config = {key: value for key, value in asdict(self.config).items() if value is not None}
        settings = {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.settings).items()
        }
        return {**config, **settings}


def read_recipe(job: TrainJob, modalities: Sequence[str]) -> Recipe:
    """Return how `job` asks to train: its preset, its configuration file, its own options, the later the stronger.

    Args:
        job: the request.
        modalities: names of the manifest's modalities.

    Raises:
        LacunaError: `unknown-architecture`; `file-missing`, `file-unreadable`; `bad-config`, naming key and value.
    """
    kind = architecture(job.architecture)
    tables: dict[str, dict[str, Any]] = {"model": {}, "training": {}}
    if job.config is not None:
        root = read_toml(job.config, "bad-config")
        tables = {name: root.take(name, dict, default={}) for name in tables}
        root.finish()
    subject = f"table training of {job.config}"
    config = checked(TrainingConfig, {**_PRESETS[job.preset], **tables["training"]}, subject)
    settings = with_asked(kind.settings(job.preset), config, job.epochs, subject)
    model = {**kind.preset_config(job.preset), **tables["model"]}
    if job.encoder is not None:
        model["encoder"] = job.encoder
    if config.encoder_lr_factor is None and _starts_pretrained(job, model):
        settings = replace(settings, encoder_lr_factor=PRETRAINED_LR_FACTOR)
    digest = "" if job.config is None else hashlib.sha256(Path(job.config).read_bytes()).hexdigest()
    return Recipe(settings, config, model, radiometry_of(config, modalities, str(job.config)), digest)


def _starts_pretrained(job: TrainJob, model: Mapping[str, Any]) -> bool:
    """Return whether the encoder begins with the weights that come with it, or with others of its kind."""
    encoder, options = model.get("encoder"), model.get("encoder_options", {})
    if job.encoder_weights == NO_WEIGHTS or not isinstance(encoder, str) or not isinstance(options, dict):
        return False
    return bool(pretrained_encoders(encoder, options))


def with_asked(
    settings: TrainingSettings, config: TrainingConfig, epochs: int | None, subject: str
) -> TrainingSettings:
    """Return `settings` with those that a configuration gives, and the `epochs` that were asked for.

    Raises:
        LacunaError: `bad-config`, some contradict each other; `subject` says where they stand.
    """
    own = {item.name for item in fields(TrainingSettings)}
    asked = {key: value for key, value in asdict(config).items() if key in own and value is not None}
    if epochs is not None:
        asked["epochs"] = epochs
    settings = replace(settings, **asked)
    # A shorter training keeps a warm-up in proportion, rather than one that never ends.
    settings = replace(settings, warmup_epochs=min(settings.warmup_epochs, settings.epochs // 4))
    if settings.optimizer == "sgd" and settings.nesterov and not settings.momentum:
        raise bad_config(subject, "asks for nesterov without momentum", "Give a momentum above 0, or nesterov = false.")
    return settings


def radiometry_of(config: TrainingConfig, modalities: Sequence[str], path: str) -> dict[str, Radiometry]:
    """Return the radiometric changes by modality."""
    subject = f"table training.radiometry of {path}"
    found = {}
    for name, values in config.radiometry.items():
        if name not in modalities:
            raise bad_config(subject, f"names {name!r}", f"Modalities of the manifest are {', '.join(modalities)}.")
        if not isinstance(values, dict):
            raise bad_config(subject, f"has {name} = {values!r}", "Give a table of offset, gain and noise.")
        found[name] = checked(Radiometry, values, f"{subject}, {name},")
    return found

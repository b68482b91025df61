# SPDX-License-Identifier: GPL-2.0-or-later
"""DIS2: distillation and disentanglement, with features that make up for what is missing and attention by class.

Kieu et al. 2026, "Disentanglement Meets Distillation with Classwise Attention for Robust Remote Sensing Segmentation
under Missing Modalities", https://arxiv.org/abs/2601.13502. The preset `paper` computes what the published code does;
the default mends what is listed at `Dis2Config`. What the published code holds to no effect (queries and last biases of
its pools, a head and a convolution of each decoder) does not exist here.

Shapes: B images, M modalities, K classes, C_l channels at stride 2^l, D = C_4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .base import SegmentationModel, TrainingSettings, reference_size
from .classwise import ClassAttention, ClasswiseDecoder, Decoded, DecoderOptions
from .containers import M, ModuleDictOf, summed
from .dis2_layers import STRIDE, AuxiliaryDecoder, NormKind, PoolBank, StridedEncoder, level_widths
from .dis2_published import convert
from .distillation import FEATURE_EPS, SegmentationLoss, divergence, feature_distance, logit_distance, unit
from .grids import pad_to_multiple, resample_features, to_reference
from .hybrid_fusion import Fused, FusionOptions, HybridFusion, grid_of
from .layers import module_key
from .registry import register

FULL, STUDENT = "full", "student"
MOST_WITH_OWN_BRANCHES = 3


@dataclass(frozen=True)
class Dis2Config:
    """The settings of DIS2. Down to `student_draw` each mends a defect of the published code, or `paper` keeps it.

    Attributes:
        norm: `pixel`, over the channels of each pixel with weights, so that no tile's content enters; or `sample`, over
            the whole of each sample without weights (there an InstanceNorm3d given maps), and BatchNorm between levels.
        evidence: whether the weights that a class gives the places are 1 in the `mean`, or have 1 as their `sum`: then
            what they weigh vanishes as tiles grow.
        corners: enlarge maps with their corners fixed, which moves them on the ground by an amount that depends on the
            size of the tile.
        image_size: rows and columns, multiples of 16, of the images that positions are learned for; others have them
            interpolated. None: one position for each modality, the same everywhere, since where a tile begins says
            nothing of the ground.
        identical_layers: both attention layers start from the same weights.
        teacher_pool: `student`, the pools of the student also sum up the teacher, so that like is compared with like;
            or `own`, pools that never learn as no gradient reaches them.
        class_mean: cross-entropy and Kullback-Leibler divergence are divided by the number of classes.
        rarity: a class also weighs 1 less its share of the image in the cross-entropy, which is then 0 for an image of
            one class.
        logit_weight: weight of that divergence within L_KD; 0.2 undoes `distillation_weight` for the divergence that
            is summed over classes, so that five classes weigh as there.
        probability_floor: lowest probability in the cross-entropy; above 0 very wrong pixels teach nothing.
        distillation_start: first epoch, from 0, with L_KD.
        student_draw: the student of a step: `uniform` over the scenarios in which something is missing; or `paper`,
            for two modalities the second alone in 0.6 and the first alone in 0.4 of the steps (else uniform).
        width: channels at stride 2; 32 in the paper.
        pool_width: hidden channels of attention pools; None: four times `width`.
        feed_forward: hidden channels of attention layers; None: eight times `width`, as many as they have outside.
        class_channels: channels of a class at full resolution.
        head_widths: channels of the two maps that merge the classes; None: `width` twice and once.
        dropout: in the attention layers, in training.
        distillation_weight: weight of L_KD (lambda).
        temperature: of the logits in L_KD.
        reduce: how many times modalities are reduced before their encoders, by name (`SegmentationModel.factors`).
    """

    norm: NormKind = "pixel"
    evidence: Literal["mean", "sum"] = "mean"
    corners: bool = False
    image_size: list[int] | None = None
    identical_layers: bool = False
    teacher_pool: Literal["student", "own"] = "student"
    class_mean: bool = False
    rarity: bool = False
    logit_weight: float = 0.2
    probability_floor: float = 0.0
    distillation_start: int = 3
    student_draw: Literal["uniform", "paper"] = "uniform"
    width: int = 32
    pool_width: int | None = None
    feed_forward: int | None = None
    class_channels: int = 4
    head_widths: list[int] | None = None
    dropout: float = 0.1
    distillation_weight: float = 5.0
    temperature: float = 2.0
    reduce: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = self.image_size
        if size is not None and (len(size) != 2 or min(size) < STRIDE or any(side % STRIDE for side in size)):
            raise ValueError(f"image_size is {size}, expected rows and columns, multiples of {STRIDE}")
        if self.head_widths is not None and (len(self.head_widths) != 2 or min(self.head_widths) < 1):
            raise ValueError(f"head_widths is {self.head_widths}, expected two whole numbers of at least 1")
        for name in ("width", "pool_width", "feed_forward", "class_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if not 0.0 <= self.dropout < 1.0 or not 0.0 <= self.probability_floor < 1.0:
            raise ValueError(
                f"dropout is {self.dropout} and probability_floor {self.probability_floor}, expected 0 to below 1"
            )
        for name in ("logit_weight", "distillation_weight", "distillation_start"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0")
        if self.temperature <= 0.0:
            raise ValueError(f"temperature is {self.temperature}, expected above 0")


class SlotAdapter(nn.Module):
    """Scale and shift of each channel of compensatory maps: tells the slots of several missing modalities apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scales = nn.ParameterList(torch.ones(count, 1, 1) for count in level_widths(width))
        self.shifts = nn.ParameterList(torch.zeros(count, 1, 1) for count in level_widths(width))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the four `maps` (B, C_l, H_l, W_l), adapted."""
        return [x * scale + shift for x, scale, shift in zip(maps, self.scales, self.shifts)]


class Branch(nn.Module):
    """HF, CFLM and class-wise decoder for one scenario or, if `shared`, for any in which a modality is missing.

    A shared branch is told what is missing by embeddings, one a modality, that are added up over the missing ones: to
    the fusion token and to the class queries.
    """

    def __init__(self, config: Dis2Config, modalities: int, classes: int, shared: bool) -> None:
        super().__init__()
        depth = level_widths(config.width)[-1]
        self.fusion = HybridFusion(_fusion_options(config, modalities))
        self.attention = ClassAttention(classes, depth, config.evidence == "mean")
        self.decoder = ClasswiseDecoder(_decoder_options(config, classes))
        self.missing_token = nn.Parameter(torch.zeros(modalities, depth)) if shared else None
        self.missing_queries = nn.Parameter(torch.zeros(modalities, depth)) if shared else None

    def fuse(self, slots: Sequence[Sequence[Tensor]], missing: Sequence[int]) -> Fused:
        """Return the fusion of `slots`, of which those numbered `missing` are compensatory."""
        return self.fusion(slots, _sum_rows(self.missing_token, missing))

    def decode(self, fused: Fused, missing: Sequence[int], with_scales: bool = False) -> Decoded:
        """Return what the class-wise decoder makes of `fused`."""
        evidence = self.attention(fused.maps[3], _sum_rows(self.missing_queries, missing))
        return self.decoder(evidence, fused.maps, with_scales)


@register("dis2")
class Dis2(SegmentationModel):
    """DIS2 over any number of modalities, of which any non-empty subset may be given.

    Every modality has an encoder and, if there are others, a compensatory one, which sees the same image and stands in
    for what is missing. The slot of a missing modality is filled by the mean over the present ones of their
    compensatory maps; with more than two modalities, each slot scales and shifts these by channel. So the cost is
    linear in the modalities, and two of them give the network of the paper. Up to three modalities each scenario has a
    branch of its own; beyond, one branch serves all scenarios in which something is missing (`Branch`).

    Attention over cells and over the places of a class spans the tile, so logits at a pixel depend, weakly by default,
    on all of its tile. Auxiliary decoders, pools and the teacher's branch are used in training only (the branch also
    where nothing is missing), and stay in the checkpoint so that training can go on.

    https://arxiv.org/abs/2601.13502
    """

    Config = Dis2Config
    draws_scenarios = True
    looks_beyond = True

    def __init__(self, modalities: Mapping[str, int], classes: int, config: Dis2Config) -> None:
        super().__init__(modalities, classes, config)
        width, count = config.width, len(modalities)
        pools = (width, config.pool_width or 4 * width)
        self.encoders = _by_modality(modalities, lambda channels: StridedEncoder(channels, width))
        self.auxiliary = _by_modality(modalities, lambda _: AuxiliaryDecoder(width, classes))
        others = modalities if count > 1 else {}
        self.compensators = _by_modality(others, lambda channels: StridedEncoder(channels, width))
        self.pools_available = _by_modality(others, lambda _: PoolBank(*pools))
        self.pools_compensatory = _by_modality(others, lambda _: PoolBank(*pools))
        self.adapters = nn.ModuleDict({_slot_key(name): SlotAdapter(width) for name in modalities if count > 2})
        keys = dict.fromkeys(self.branch_key(names) for names in self.student_scenarios())
        self.branches = ModuleDictOf({key: Branch(config, count, classes, key == STUDENT) for key in (FULL, *keys)})
        self.pools_student = nn.ModuleDict({key: PoolBank(*pools) for key in keys})
        self.pools_teacher = PoolBank(*pools) if config.teacher_pool == "own" and count > 1 else None
        self.output_stride = STRIDE * self.coarsest
        self.margin = 2 * self.output_stride
        self.native_size = (config.image_size[0], config.image_size[1]) if config.image_size else None

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return logits (B, K, H, W) on the reference grid; see `SegmentationModel.forward`."""
        names, size = self.present(images), reference_size(images, size)
        fused = self._fuse(images, names, size)
        return self.branches[self.branch_key(names)].decode(fused, self._missing(names)).cropped(size).logits

    def latent(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return what distillation aligns: the penultimate map of the scenario's branch, its directions (B, C, H, W).

        Each scenario has a branch of its own, and the fused maps of two branches have no common coordinates: compared,
        they would tell only which branch ran. L_KD draws these directions together.
        """
        names, size = self.present(images), reference_size(images, size)
        missing, fused = self._missing(names), self._fuse(images, names, size)
        return unit(self.branches[self.branch_key(names)].decode(fused, missing).cropped(size).penultimate, FEATURE_EPS)

    def _fuse(self, images: Mapping[str, Tensor], names: Sequence[str], size: tuple[int, int]) -> Fused:
        """Return what the branch of scenario `names` fuses from `images`."""
        prepared = self._prepared(images, size)
        slots, _ = self._slots(prepared, self.encode(prepared, names, size), names, size)
        return self.branches[self.branch_key(names)].fuse(slots, self._missing(names))

    def _unimodal(self, features: Mapping[str, list[Tensor]], size: tuple[int, int]) -> dict[str, Tensor]:
        decoded = {name: self.auxiliary[module_key(name)](maps) for name, maps in features.items()}
        return {name: logits[..., : size[0], : size[1]] for name, logits in decoded.items()}

    def encode(
        self, images: Mapping[str, Tensor], names: Sequence[str], size: tuple[int, int]
    ) -> dict[str, list[Tensor]]:
        """Return the four maps of each of the modalities `names` on the reference grid of `size`, padded.

        Sides of `images` are multiples of 16; those of reduced modalities are on their own grid.
        """
        return {name: self._maps(self.encoders, images[name], name, size) for name in names}

    def _maps(
        self, encoders: ModuleDictOf[StridedEncoder], image: Tensor, name: str, size: tuple[int, int]
    ) -> list[Tensor]:
        """Return the four maps that the encoder of modality `name` among `encoders` makes of its `image`."""
        maps = encoders[module_key(name)](image)
        if name not in self.factors:
            return maps
        ratio = 1 / self.factors[name]
        padded = [side + -side % STRIDE for side in size]
        counts = [(padded[0] // 2**level, padded[1] // 2**level) for level in range(1, len(maps) + 1)]
        return [resample_features(x, count, (ratio, ratio)) for x, count in zip(maps, counts)]

    def _prepared(self, images: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return `images` on the reference grid of `size`, or on that reduced, padded to multiples of 16."""
        prepared = {}
        for name, given in images.items():
            image, own = self.encoder_input(given, name, size)
            on_grid = image if name in self.factors else to_reference(image, own, size, 1)
            prepared[name] = pad_to_multiple(on_grid, STRIDE)
        return prepared

    def _slots(
        self,
        images: Mapping[str, Tensor],
        features: Mapping[str, list[Tensor]],
        names: Sequence[str],
        size: tuple[int, int],
    ) -> tuple[list[list[Tensor]], dict[str, list[Tensor]]]:
        """Return the maps of every slot where only `names` are present, and the compensatory maps of each of these."""
        if len(names) == len(self.modalities):
            return [features[name] for name in names], {}
        made_up = {name: self._maps(self.compensators, images[name], name, size) for name in names}
        mean = [summed(level) / len(names) for level in zip(*made_up.values())]
        lacking = [name for name in self.modalities if name not in names]
        adapted = {name: self.adapters[_slot_key(name)](mean) if self.adapters else mean for name in lacking}
        return [features[name] if name in names else adapted[name] for name in self.modalities], made_up

    def _missing(self, names: Sequence[str]) -> list[int]:
        """Return the numbers of the modalities that are not among `names`."""
        return [index for index, name in enumerate(self.modalities) if name not in names]

    def branch_key(self, names: Sequence[str]) -> str:
        """Return which branch serves the scenario of `names`: `full`, `student`, or for instance `s101`."""
        if len(names) == len(self.modalities):
            return FULL
        if len(self.modalities) > MOST_WITH_OWN_BRANCHES:
            return STUDENT
        return "s" + "".join("1" if name in names else "0" for name in self.modalities)

    def student_scenarios(self) -> list[tuple[str, ...]]:
        """Return the scenarios in which something is missing, by size, then in the order of the modalities."""
        return [found for size in range(1, len(self.modalities)) for found in combinations(self.modalities, size)]

    def losses(
        self,
        images: Mapping[str, Tensor],
        target: Tensor,
        *,
        available: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the objective: the teacher on all modalities, and one student, whose scenario is drawn.

        Where `images` lack a modality there is no teacher: the student of that very scenario learns from the labels.
        Where the scenario is told it is the student's (`available`), and the teacher stays; all of them train the
        teacher alone. See `objective` for the parts, and `SegmentationModel.losses`.
        """
        names = self.present(images)
        if available is not None:
            return self.objective(images, target, available, class_weights)
        if len(names) < len(self.modalities):
            return self.objective(images, target, names, class_weights)
        return self.objective(images, target, self._draw_student(generator), class_weights)

    def objective(
        self,
        images: Mapping[str, Tensor],
        target: Tensor,
        available: Sequence[str],
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the objective whose student sees `available`.

        Its parts: `unimodal`, segmentation losses of the auxiliary decoders of all `images`; `full` and `full_scales`,
        of the teacher, if no modality lacks; `student` and `student_scales`; with both, `kd` (L_KD, of which
        `kd_features`, `kd_penultimate` and `kd_logits` are parts) and `div` (L_div). L_KD and L_div look at all pixels,
        labelled or not; a batch without any label counts for nothing. `total` is the sum of all, L_KD weighted.
        """
        names, size = self.present(images), (target.shape[-2], target.shape[-1])
        config, prepared = self.model_config, self._prepared(images, size)
        loss = SegmentationLoss(
            target, self.classes, class_weights, config.probability_floor, config.class_mean, config.rarity
        )
        features = self.encode(prepared, names, size)
        parts = {"unimodal": summed(loss(logits) for logits in self._unimodal(features, size).values())}
        teacher = student = None
        if len(names) == len(self.modalities):
            teacher = self._trained(FULL, [features[name] for name in names], (), size)
            parts |= _supervised(FULL, teacher[1], loss)
        if self._missing(available):
            slots, made_up = self._slots(prepared, features, available, size)
            student = self._trained(self.branch_key(available), slots, self._missing(available), size)
            parts |= _supervised(STUDENT, student[1], loss)
        total = summed(parts.values())
        if teacher and student:
            parts |= self._distillation(self.branch_key(available), student, teacher)
            parts["div"] = self._divergence(made_up, features)
            total = total + self._distillation_weight() * parts["kd"] + parts["div"]
        return {**parts, "total": loss.labelled * total}

    def _trained(
        self, key: str, slots: Sequence[Sequence[Tensor]], missing: Sequence[int], size: tuple[int, int]
    ) -> tuple[Fused, Decoded]:
        """Return all that the objective wants from branch `key`, cut to `size`."""
        fused = self.branches[key].fuse(slots, missing)
        return fused, self.branches[key].decode(fused, missing, with_scales=True).cropped(size)

    def _distillation(
        self, key: str, student: tuple[Fused, Decoded], teacher: tuple[Fused, Decoded]
    ) -> dict[str, Tensor]:
        """Return L_KD and its parts, for the student of branch `key`; no gradient reaches the teacher."""
        config, pools = self.model_config, self.pools_student[key]
        with torch.no_grad():
            wanted = (self.pools_teacher or pools)(teacher[0].maps)
        features = feature_distance([*pools(student[0].maps), student[0].token], [*wanted, teacher[0].token])
        penultimate = feature_distance([student[1].penultimate], [teacher[1].penultimate])
        logits = logit_distance(student[1].logits, teacher[1].logits, config.temperature, config.class_mean)
        whole = features + penultimate + config.logit_weight * logits
        return {"kd": whole, "kd_features": features, "kd_penultimate": penultimate, "kd_logits": logits}

    def _divergence(self, made_up: Mapping[str, list[Tensor]], features: Mapping[str, list[Tensor]]) -> Tensor:
        """Return L_div, its mean over the modalities present, of compensatory maps and ordinary ones."""
        terms = []
        for name, maps in made_up.items():
            key = module_key(name)
            terms.append(divergence(self.pools_compensatory[key](maps), self.pools_available[key](features[name])))
        return summed(terms) / len(terms)

    def _distillation_weight(self) -> float:
        """Return lambda: 0 in the first epochs, then `distillation_weight`; that too where no epoch was told."""
        late = self.epoch is None or self.epoch >= self.model_config.distillation_start
        return self.model_config.distillation_weight if late else 0.0

    def _draw_student(self, generator: torch.Generator | None) -> tuple[str, ...]:
        """Return the scenario of this step's student; that of a single modality is all there is."""
        scenarios = self.student_scenarios()
        if not scenarios:
            return tuple(self.modalities)
        shares = torch.ones(len(scenarios))
        if self.model_config.student_draw == "paper" and len(self.modalities) == 2:
            shares = torch.tensor([0.4, 0.6])
        return scenarios[int(torch.multinomial(shares, 1, generator=generator))]

    @classmethod
    def import_published(
        cls, state: Mapping[str, Tensor], config: Mapping[str, Any], channels: Mapping[str, int], classes: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the published `state` for use here; `config` must hold `image_size`, see `dis2_published.convert`."""
        defaults = {**cls.preset_config("paper"), "image_size": None}
        return convert(state, {**defaults, **config}, channels, classes)

    @classmethod
    def preset_config(cls, preset: str = "default") -> dict[str, Any]:
        """Return the network and objective of the published code, or nothing."""
        if preset != "paper":
            return {}
        return {
            "norm": "sample",
            "evidence": "sum",
            "corners": True,
            "image_size": [512, 512],
            "identical_layers": True,
            "teacher_pool": "own",
            "class_mean": True,
            "rarity": True,
            "logit_weight": 1.0,
            "probability_floor": 0.005,
            "distillation_start": 6,
            "student_draw": "paper",
        }

    @classmethod
    def settings(cls, preset: str = "default") -> TrainingSettings:
        """Return the training settings: those of the published script, or ones that learn from scratch on little data.

        Of the paper's, epochs and batch are not known: the script reads them from a file that was not published; 4 of
        512 x 512 pixels and 200 epochs are in the range that its traces suggest. Known besides what is here: 1,200
        tiles an epoch, mixed precision, validation every 16 batches. There, the first batch makes a step by itself.
        """
        if preset == "paper":
            return TrainingSettings(
                lr=1e-3,
                weight_decay=0.0,
                epochs=200,
                warmup_epochs=0,
                batch=4,
                crop=512,
                optimizer="sgd",
                momentum=0.99,
                nesterov=True,
                schedule="cosine_restarts",
                restart_steps=15,
                accumulation=2,
            )
        return TrainingSettings(lr=1e-3, weight_decay=5e-2, epochs=60, warmup_epochs=3, batch=8, crop=96, clip=1.0)


def _supervised(name: str, decoded: Decoded, loss: SegmentationLoss) -> dict[str, Tensor]:
    """Return the losses of a branch's logits and of its four scales, as `name` and `name_scales`."""
    return {name: loss(decoded.logits), f"{name}_scales": summed(loss(scale) for scale in decoded.scales)}


def _by_modality(modalities: Mapping[str, int], make: Callable[[int], M]) -> ModuleDictOf[M]:
    """Return what `make` gives for the number of channels of each modality."""
    return ModuleDictOf({module_key(name): make(channels) for name, channels in modalities.items()})


def _slot_key(name: str) -> str:
    """Return the key of what serves the slot of modality `name` where it is missing."""
    return f"without_{name}"


def _sum_rows(rows: Tensor | None, indices: Sequence[int]) -> Tensor | None:
    """Return the sum (D) of the rows (M, D) numbered `indices`, or None where there are none."""
    return None if rows is None else summed(rows[index] for index in indices)


def _fusion_options(config: Dis2Config, slots: int) -> FusionOptions:
    return FusionOptions(
        slots=slots,
        width=config.width,
        grid=grid_of(config.image_size),
        norm=config.norm,
        pool_width=config.pool_width or 4 * config.width,
        feed_forward=config.feed_forward or level_widths(config.width)[-1],
        dropout=config.dropout,
        identical_layers=config.identical_layers,
    )


def _decoder_options(config: Dis2Config, classes: int) -> DecoderOptions:
    widths = config.head_widths or [2 * config.width, config.width]
    return DecoderOptions(
        classes=classes,
        width=config.width,
        class_channels=config.class_channels,
        head_widths=(widths[0], widths[1]),
        norm=config.norm,
        corners=config.corners,
    )

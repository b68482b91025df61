# SPDX-License-Identifier: GPL-2.0-or-later
"""The contract of every architecture: what goes in, what comes out, and the settings that it is trained with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..errors import LacunaError
from .class_tensors import ClassTensors, compare_builds
from .reduction import check_factors, reduce_image

IGNORE = -1


@dataclass(frozen=True)
class TrainingSettings:
    """How an architecture is trained under a preset: linear warm-up, then the schedule, both by step of the optimiser.

    Attributes:
        lr: learning rate after the warm-up.
        encoder_lr_factor: the encoder's learning rate as a multiple of `lr` (below 1 for encoders that come trained).
        new_lr_factor: the same for what is new to a network that is trained further
            (`SegmentationModel.new_parameters`).
        weight_decay: decoupled with `adamw`, else added to the gradient; never on parameters of one dimension (norms,
            biases).
        betas: exponential decay rates of the moments, for `adamw` and `adam`.
        eps: epsilon of `adamw` and `adam`.
        epochs: passes over the training crops.
        warmup_epochs: how many of them warm up.
        warmup_ratio: share of `lr` that the warm-up starts from.
        poly_power: exponent of the decay, lr * (1 - t / T) ** poly_power.
        batch: crops in one step; memory grows with it.
        crop: side of a training crop, in pixels of the reference grid.
        clip: largest norm of the gradient, or None.
        optimizer: `adamw`, `adam` or `sgd`.
        momentum: of `sgd`.
        nesterov: whether it is Nesterov's.
        schedule: `poly`; `flat`, always `lr` but for its cool-down, for trainings that may be stopped at any time;
            `cosine_restarts`, from `lr` to 0 as half a cosine, again and again; or `step`, every `decay_epochs` epochs
            times `decay_factor`.
        cooldown: share of the steps at the end of `flat` over which the rate falls linearly to 0.
        restart_steps: steps of the optimiser in one period of `cosine_restarts`.
        decay_epochs: epochs between two decays of `step`.
        decay_factor: factor of each of them.
        accumulation: batches whose mean gradient makes one step of the optimiser.
    """

    lr: float
    weight_decay: float
    epochs: int
    warmup_epochs: int
    batch: int
    crop: int
    warmup_ratio: float = 0.1
    poly_power: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    encoder_lr_factor: float = 1.0
    new_lr_factor: float = 1.0
    clip: float | None = None
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    schedule: Literal["poly", "flat", "cosine_restarts", "step"] = "poly"
    cooldown: float = 0.0
    restart_steps: int = 1
    decay_epochs: int = 1
    decay_factor: float = 0.1
    accumulation: int = 1


class SegmentationModel(nn.Module, ABC):
    """An architecture over a fixed list of modalities, of which any non-empty subset may be given.

    Images of modalities that are absent are left out of the mapping: they reach no layer. The images may each be on a
    grid of their own, as long as all show the same extent; the result is on the reference grid. Sizes are free:
    padding to the stride of the network, and its removal, happen inside. Of modalities that the setting `reduce` names,
    encoders see the mean over blocks of so many by so many pixels of the reference grid (`reduction`).

    Args:
        modalities: number of channels of each modality by name, in the card's order.
        classes: number of classes K.
        config: the architecture's own settings.

    Attributes:
        factors: how many times modalities are reduced before their encoder, by name; those that are not are left out.
        coarsest: the largest of these factors, or 1.
        output_stride: stride of the coarsest features, on the reference grid; origins of tiles are multiples of it.
        margin: pixels at the border of a tile that lack context and should lie in the overlap.
        native_size: rows and columns of the images that it is made for, or None where any will do as well.
        import_note: what the card of imported weights has to say of them.
        published_adapters: names of the layers that a published fine-tuning by LoRA adapts, with * and ?; none where
            none is published.
        epoch: the training epoch, from 0; None where nobody tells, which objectives take as late in training.
        draws_scenarios: whether `losses` can draw scenarios of its own among the images that it is given.
        new_parameters: names of parameters that nobody has trained yet, in a network that is trained further.
        looks_beyond: whether `losses` also uses images outside the scenario that it is told: for a teacher that sees
            all, or a modality that it samples.
    """

    architecture: ClassVar[str] = ""
    Config: ClassVar[type] = type(None)
    import_note: ClassVar[str] = ""
    published_adapters: ClassVar[tuple[str, ...]] = ()

    output_stride: int
    margin: int
    native_size: tuple[int, int] | None = None
    draws_scenarios: bool = False
    looks_beyond: bool = False
    new_parameters: frozenset[str] = frozenset()

    def __init__(self, modalities: Mapping[str, int], classes: int, config: Any) -> None:
        super().__init__()
        self.modalities = dict(modalities)
        self.classes = classes
        self.model_config = config
        subject = f"architecture {self.architecture}"
        self.factors = check_factors(getattr(config, "reduce", {}), self.modalities, subject)
        self.coarsest = max(self.factors.values(), default=1)
        self.epoch: int | None = None

    @abstractmethod
    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the logits.

        Args:
            images: float (B, C, h, w) of each modality that is present.
            size: (H, W) of the reference grid; default: that of the image with most pixels.

        Returns:
            Logits (B, K, H, W).
        """

    @abstractmethod
    def latent(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the fused latent map (B, D, h, w) that the scenario of `images` leads to."""

    @abstractmethod
    def losses(
        self,
        images: Mapping[str, Tensor],
        target: Tensor,
        *,
        available: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the training objective and its parts.

        Args:
            images: float (B, C, h, w) of each modality that is present.
            target: int64 (B, H, W) on the reference grid: class index, or -1 where nothing is known.
            available: the scenario to train, a part of the names of `images`; None: the objective draws its own, as
                its method does.
            generator: source of the objective's own draws, on the CPU; default: torch's global one.
            class_weights: float (K), or None for equal weights.

        Returns:
            Scalars by name; `total` is the one to minimise.
        """

    @classmethod
    @abstractmethod
    def settings(cls, preset: str = "default") -> TrainingSettings:
        """Return the training settings of `preset` (`default` or `paper`)."""

    @classmethod
    @abstractmethod
    def preset_config(cls, preset: str = "default") -> dict[str, Any]:
        """Return the configuration values that `preset` sets; those of a user override them."""

    @classmethod
    def import_published(
        cls, state: Mapping[str, Tensor], config: Mapping[str, Any], channels: Mapping[str, int], classes: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the state of our network that computes what published weights compute.

        Args:
            state: tensors under the names of the published code.
            config: settings that the importer was given; what the weights themselves tell may be left out.
            channels: number of channels of each modality by name, in the order of the weights' inputs.
            classes: number of classes.

        Returns:
            The settings for `registry.build`, and the tensors that `load_state_dict` of the network takes.

        Raises:
            LacunaError: `bad-import` where tensors are missing, left over or of another shape, or contradict `config`,
                `channels` or `classes`; or where nothing was published for this architecture.
        """
        raise LacunaError(
            "bad-import",
            f"No published weights are known for architecture {cls.architecture}.",
            "Name the architecture that the weights belong to, or train one.",
        )

    def config(self) -> dict[str, Any]:
        """Return the configuration as JSON values, from which `registry.build` makes the same network."""
        return asdict(self.model_config)

    def start_epoch(self, epoch: int) -> None:
        """Take note that training epoch number `epoch`, from 0, begins; for objectives that change as it goes on."""
        self.epoch = epoch

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Copy published encoder `weights` into the model's encoder.

        Raises:
            LacunaError: `bad-encoder-weights` where they do not fit it.
        """
        raise LacunaError(
            "bad-encoder-weights",
            f"Architecture {self.architecture} takes no encoder weights.",
            "Leave out --encoder-weights.",
        )

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the encoders."""
        return []

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that `load_encoder` sets, for a learning rate of their own."""
        return self.encoder_parameters()

    def class_tensors(self) -> ClassTensors:
        """Return which tensors have a part for each class, found by comparison with a network of one class more.

        Raises:
            LacunaError: `fixed-classes` where that does not tell.
        """
        with torch.random.fork_rng(devices=[]):
            larger = type(self)(self.modalities, self.classes + 1, self.model_config)
        return compare_builds(self.state_dict(), larger.state_dict(), self.classes, self.architecture)

    def present(self, images: Mapping[str, Tensor]) -> list[str]:
        """Return the names of the modalities in `images`, in the model's order.

        Raises:
            LacunaError: `bad-input` for none at all, an unknown name, a wrong shape or different batch sizes.
        """
        unknown = [name for name in images if name not in self.modalities]
        if unknown or not images:
            found = f"an unknown modality {unknown[0]!r}" if unknown else "no modality at all"
            raise _bad_input(f"The model was given {found}.", f"It knows {', '.join(self.modalities)}.")
        batch = next(iter(images.values())).shape[0]
        for name, image in images.items():
            wanted = (batch, self.modalities[name])
            if image.ndim != 4 or tuple(image.shape[:2]) != wanted or 0 in image.shape:
                raise _bad_input(
                    f"Modality {name} was given as {tuple(image.shape)}.",
                    f"Expected ({wanted[0]}, {wanted[1]}, height, width).",
                )
        return [name for name in self.modalities if name in images]

    def encoder_input(self, image: Tensor, name: str, size: tuple[int, int]) -> tuple[Tensor, tuple[float, float]]:
        """Return the `image` (B, C, h, w) of modality `name` as its encoder sees it, and its extent in its own pixels.

        Args:
            image: as it was given.
            name: of the modality.
            size: (H, W) of the reference grid, showing the same extent.

        Returns:
            The image reduced as `reduction.reduce_image` does, or as it is, with its size as extent.
        """
        if name in self.factors:
            return reduce_image(image, self.factors[name], size)
        return image, (image.shape[-2], image.shape[-1])


def reference_size(images: Mapping[str, Tensor], size: tuple[int, int] | None) -> tuple[int, int]:
    """Return `size`, or where it is None the (height, width) of the image with most pixels, the first among equals."""
    if size is not None:
        return int(size[0]), int(size[1])
    largest = max(images.values(), key=lambda image: image.shape[-2] * image.shape[-1])
    return int(largest.shape[-2]), int(largest.shape[-1])


def _bad_input(text: str, hint: str) -> LacunaError:
    return LacunaError("bad-input", text, hint)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What is no network, but is made beside one and stands in checkpoints like one: forest, detail path, joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import LacunaError
from .base import SegmentationModel, TrainingSettings


class Made(SegmentationModel):
    """A model whose weights do not come from the training loop, so that it has neither objective nor settings of one.

    Attributes:
        subject: what it is, for messages.
        hint: what to do instead, for messages.
    """

    subject: ClassVar[str]
    hint: ClassVar[str]

    def latent(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Raise LacunaError `not-trainable`: it has no latent map."""
        raise self.refusal("has no latent to compare scenarios by")

    def losses(
        self,
        images: Mapping[str, Tensor],
        target: Tensor,
        *,
        available: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Raise LacunaError `not-trainable`."""
        raise self.refusal("is not trained step by step")

    @classmethod
    def settings(cls, preset: str = "default") -> TrainingSettings:
        """Raise LacunaError `not-trainable`."""
        raise cls.refusal("is not trained step by step")

    @classmethod
    def preset_config(cls, preset: str = "default") -> dict[str, Any]:
        """Raise LacunaError `not-trainable`."""
        raise cls.refusal("is not trained step by step")

    @classmethod
    def refusal(cls, what: str) -> LacunaError:
        """Return the error for what only a network can do."""
        return LacunaError("not-trainable", f"{cls.subject} {what}.", cls.hint)

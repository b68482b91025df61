# SPDX-License-Identifier: GPL-2.0-or-later
"""The opponents: what an analyst would take otherwise, on the same labels and the features of `window_features`.

They get every label of the training ground: trees need no validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from torch import Tensor, nn

from lacuna.engine.checkpoint.card import Scenario
from lacuna.engine.models.window_features import strips_of_features
from lacuna.engine.training.samples import WINDOWS, PixelSamples

_LEAST = 1e-6


class Rival(nn.Module):
    """One classifier of scikit-learn for each scenario, as a model that gives logits of images.

    Args:
        name: `forest` (100 trees, unpruned) or `boosting`.
        samples: features of labelled pixels.
        scenarios: those to fit.
        classes: number of classes K.
        seed: of its draws.
    """

    def __init__(self, name: str, samples: PixelSamples, scenarios: list[Scenario], classes: int, seed: int) -> None:
        super().__init__()
        self.classes, self.fitted = classes, {}
        for scenario in scenarios:
            held = np.all([samples.valid[item] for item in scenario], axis=0)
            features = np.concatenate([samples.features[item][held] for item in scenario], axis=1)
            self.fitted[scenario] = _classifier(name, samples.labels[held], seed).fit(features, samples.labels[held])

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return logits (1, K, H, W) of images (1, C, H, W) on one grid."""
        fitted = self.fitted[tuple(images)]
        shares = []
        for strip in strips_of_features([image[0] for image in images.values()], WINDOWS):
            found = np.zeros((strip.shape[1] * strip.shape[2], self.classes), np.float32)
            found[:, fitted.classes_.astype(int)] = fitted.predict_proba(strip.flatten(1).T.numpy())
            shares.append(torch.from_numpy(found.T.copy()).unflatten(1, tuple(strip.shape[1:])))
        return torch.cat(shares, 1).clamp(min=_LEAST).log()[None]


def _classifier(name: str, labels: np.ndarray, seed: int) -> Any:
    """Return a fresh classifier with the settings that scikit-learn gives it.

    Boosting stops early by a tenth of its pixels where it has over 10,000, which a class of one pixel does not allow.
    """
    if name == "forest":
        return RandomForestClassifier(100, random_state=seed)
    rare = np.bincount(labels)[np.unique(labels)].min() < 2
    return HistGradientBoostingClassifier(random_state=seed, early_stopping=False if rare else "auto")

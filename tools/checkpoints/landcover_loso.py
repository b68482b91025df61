# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure the bundled land cover checkpoint on places that it does not know: each scene by what the others taught.

A fold leaves out one scene and two or so of the floods. The line from level 2A to 1C, the detail path and the mean over
the ground are those of the others; the scaling of the bands, which the codes of the detail path undo, is the card's.
Takes some minutes; prints the tables of docs/bundled-checkpoint.md when run by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.data.confusion import ConfusionMatrix
from lacuna.engine.models.detail import Detail
from lacuna.engine.models.world_part import WorldPart, WorldPartConfig
from lacuna.engine.training.calibration import fit_temperature
from lacuna.tools.checkpoints.atmosphere import read_pairs, typical_line
from lacuna.tools.checkpoints.landcover_classes import CROPS, SNOW, VALUES, class_matrix, world_network
from lacuna.tools.checkpoints.landcover_detail import train_detail
from lacuna.tools.checkpoints.landcover_ground import Ground, read_floods, read_scenes

FOLDS = {
    "433D_629L_3_1": ("Ghana_53713", "USA_905409"),
    "38D_378R_2_3": ("Mekong_333434", "Pakistan_849790"),
    "637U_59R_1_3": ("Somalia_699062", "Sri-Lanka_534068"),
    "609U_541L_3_0": ("Spain_7370579",),
}
# By how much network, detail path and Dynamic World count, as in the card. Chosen on these folds: with Sentinel-2,
# Dynamic World has the greater say. The network was not trained anew for each fold, so it has none.
_SEEING, _BLIND = [0.0, 0.3, 0.7], [0.0, 1.0]
SHARES = {
    ("optical",): _SEEING,
    ("radar",): _BLIND,
    ("elevation",): _BLIND,
    ("optical", "radar"): _SEEING,
    ("optical", "elevation"): _SEEING,
    ("radar", "elevation"): _BLIND,
    ("optical", "radar", "elevation"): _SEEING,
}
_EVERY = 7


def parts(model: Detail, ground: Ground) -> dict[str, Tensor]:
    """Return logarithms of probabilities (K, h, w): of the detail path by scenario, and of Dynamic World (`world`)."""
    images = {name: torch.from_numpy(image)[None] for name, image in ground.images.items()}
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for scenario in SHARES:
            if set(scenario) <= set(images):
                # Elevation has no say beside others, so that nothing is computed twice.
                heard = [name for name in scenario if name != "elevation"] or list(scenario)
                key = "+".join(heard)
                if key not in found:
                    found[key] = model({name: images[name] for name in heard})[0].log_softmax(0)
                found["+".join(scenario)] = found[key]
        if "optical" in images:
            part = WorldPart(WorldPartConfig("optical", class_matrix()))
            found["world"] = part(model.beliefs("optical", images["optical"]))[0].log_softmax(0)
    return found


def mixed(found: Mapping[str, Tensor], scenario: Sequence[str], shares: Sequence[float]) -> np.ndarray:
    """Return the logits (K, h, w) of detail path and Dynamic World in a scenario, as the joined model computes them."""
    whole = shares[1] * found["+".join(scenario)]
    return (whole + shares[2] * found["world"] if len(shares) > 2 else whole).numpy()


def left_out(modalities: Sequence[Modality]) -> Iterator[tuple[str, Ground, dict[str, Tensor], dict[str, float]]]:
    """Yield for each scene its name, the ground, what the others teach of it, and how right floods left out are."""
    network, pairs = world_network(), read_pairs()
    scenes, floods = read_scenes(modalities, network), read_floods(modalities[1], network)
    for name, away in FOLDS.items():
        others = {key: ground for key, ground in scenes.items() if key != name}
        taught = {key: ground for key, ground in floods.items() if key not in away}
        line = typical_line({key: pair for key, pair in pairs.items() if key != name})
        model = train_detail(others, {}, taught, modalities, line)
        right = {}
        for key in away:
            water, labels = parts(model, floods[key])["radar"].argmax(0).numpy() == 0, floods[key].labels
            right[key] = float((water == (labels == 0))[labels >= 0].mean())
        yield name, scenes[name], parts(model, scenes[name]), right


class Measured:
    """What is found on the scenes left out, scene after scene.

    Attributes:
        tables: by title, by scene: mIoU and overall accuracy, as shares.
        floods: share of the pixels that radar tells right, water or not, by flood.
    """

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, tuple[float, float]]] = {}
        self.floods: dict[str, float] = {}
        self._matrices = {scenario: ConfusionMatrix(len(VALUES)) for scenario in SHARES}
        self._logits: dict[tuple[str, ...], list[np.ndarray]] = {scenario: [] for scenario in SHARES}
        self._labels: list[np.ndarray] = []

    def add(self, name: str, ground: Ground, found: Mapping[str, Tensor]) -> None:
        """Add one scene."""
        # Of snow no other scene tells: how sure the answers there are says nothing of other places.
        some = (ground.labels >= 0) & (ground.labels != SNOW)
        self._labels.append(ground.labels[some][::_EVERY])
        for scenario, shares in SHARES.items():
            logits = mixed(found, scenario, shares)
            self._matrices[scenario].update(ground.labels, logits.argmax(0))
            self._logits[scenario].append(logits[:, some].T[::_EVERY])
            self._note(" + ".join(scenario), name, logits.argmax(0), ground)
        assert ground.soft is not None
        self._note("Dynamic World, level 2A", name, found["world"].argmax(0).numpy(), ground)
        self._note("Dynamic World, level 1C", name, ground.soft.argmax(-1), ground)
        self._note("crops everywhere", name, np.full(ground.labels.shape, CROPS), ground)

    def _note(self, title: str, name: str, classes: np.ndarray, ground: Ground) -> None:
        matrix = ConfusionMatrix(len(VALUES))
        matrix.update(ground.labels, classes)
        self.tables.setdefault(title, {})[name] = (matrix.miou(), matrix.oa())

    def scores(self) -> list[dict[str, Any]]:
        """Return the measures of each scenario as a card holds them, over the pixels of all scenes."""
        return [{"available": list(scenario), **matrix.summary()} for scenario, matrix in self._matrices.items()]

    def calibration(self) -> list[dict[str, Any]]:
        """Return the temperature of each scenario as a card holds it."""
        labels = np.concatenate(self._labels)
        return [
            {"available": list(scenario), "temperature": round(fit_temperature(np.concatenate(logits), labels), 4)}
            for scenario, logits in self._logits.items()
        ]

    def say(self) -> None:
        """Print all as tables."""
        print("| | " + " | ".join(FOLDS) + " |")
        for title, row in self.tables.items():
            print(f"| {title} | " + " | ".join(f"{row[name][0]:.3f} / {row[name][1]:.3f}" for name in FOLDS) + " |")
        print("| " + " | ".join(f"{name} {right:.3f}" for name, right in self.floods.items()) + " |")


def measure(modalities: Sequence[Modality], keep: Path | None = None) -> Measured:
    """Return what is found on the scenes left out.

    Args:
        modalities: of the card, in order, with their scaling.
        keep: a file (.npz) for what the parts say.
    """
    measured, kept = Measured(), {}
    for name, ground, found, right in left_out(modalities):
        print(f"left out: {name}", flush=True)
        measured.add(name, ground, found)
        measured.floods.update(right)
        kept.update({f"{name}|{key}": value.numpy().astype(np.float16) for key, value in found.items()})
    if keep is not None:
        np.savez(keep, allow_pickle=False, **kept)
    return measured


def main() -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description="Measure the bundled land cover checkpoint on places left out.")
    parser.add_argument("checkpoint", type=Path, help="the checkpoint whose scaling is used")
    parser.add_argument("--keep", type=Path, help="write what the parts say to this file (.npz)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    measure(read_card(str(asked.checkpoint)).modalities, asked.keep).say()
    return 0


if __name__ == "__main__":
    sys.exit(main())

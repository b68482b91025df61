# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure how level 2A can be made to suit Dynamic World: the table of docs/bundled-dynamic-world.md.

Whatever is fitted is fitted on all scenes but the one that it is measured on. Takes a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import load_file

from lacuna.engine.models.dynamic_world_net import DynamicWorldNet
from lacuna.engine.raster.scaling import scale
from lacuna.tools.checkpoints.atmosphere import BANDS, Pair, fit_line, read_pairs, typical_line
from lacuna.tools.checkpoints.dynamic_world import WEIGHTS, published_chain

# Dynamic World's classes as values of the labels; grass and shrub are both their rangeland, bare their bare ground.
LABEL = np.array([1, 2, 9, 3, 4, 9, 5, 6, 7])
_RIDGE = 1e-3
Pairs = dict[str, Pair]
# From the scenes to fit to and the image (9, h, w) at level 2A to an image at level 1C.
Change = Callable[[Pairs, np.ndarray], np.ndarray]


def along(line: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return the image that the lines (9, 2) make of an image."""
    return line[:, :1, None] + line[:, 1:, None] * image


def by_matrix(pairs: Pairs, image: np.ndarray) -> np.ndarray:
    """Return the image that a linear map of all bands makes; ridge regression towards leaving them as they are."""
    given, wanted = (
        np.concatenate([getattr(pair, level).reshape(len(BANDS), -1) for pair in pairs.values()], 1) / 1e4
        for level in ("l2a", "l1c")
    )
    centre, goal = given.mean(1, keepdims=True), wanted.mean(1, keepdims=True)
    apart, rest = given - centre, (wanted - goal) - (given - centre)
    change = rest @ apart.T @ np.linalg.inv(apart @ apart.T + _RIDGE * given.shape[1] * np.eye(len(BANDS)))
    flat = image.reshape(len(BANDS), -1) / 1e4 - centre
    return ((goal + flat + change @ flat) * 1e4).reshape(image.shape)


def classify(network: DynamicWorldNet, image: np.ndarray) -> np.ndarray:
    """Return the classes (h, w) of an image at level 1C."""
    with torch.no_grad():
        logits: torch.Tensor = network(torch.from_numpy(scale(image, published_chain()))[None])
    return logits[0].argmax(0).numpy()


def accuracy(found: list[np.ndarray], labels: list[np.ndarray]) -> tuple[float, float]:
    """Return overall accuracy and mIoU over the classes among the labels, all pixels together."""
    ours = LABEL[np.concatenate([item.ravel() for item in found])]
    theirs = np.concatenate([item.ravel() for item in labels])
    shares = []
    for value in np.unique(theirs):
        own, other = ours == value, theirs == value
        shares.append((own & other).sum() / (own | other).sum())
    return float((ours == theirs).mean()), float(np.mean(shares))


def main() -> int:
    """Print the table; return the exit status."""
    network = DynamicWorldNet()
    network.load_state_dict(load_file(WEIGHTS))
    network.eval()
    pairs = read_pairs()
    others = {name: {key: pair for key, pair in pairs.items() if key != name} for name in pairs}
    truth = {name: classify(network, pair.l1c) for name, pair in pairs.items()}
    ways: dict[str, Change] = {
        "level 2A as it is": lambda fitting, image: image,
        "a line a band, mean of the lines of the other scenes": lambda fitting, image: along(
            typical_line(fitting), image
        ),
        "a linear map of all bands": by_matrix,
    }
    maps = {"level 1C": truth}
    maps |= {
        title: {name: classify(network, way(others[name], pair.l2a)) for name, pair in pairs.items()}
        for title, way in ways.items()
    }
    bundled = typical_line(pairs)
    maps["the bundled line (fitted to these scenes too)"] = {
        name: classify(network, along(bundled, pair.l2a)) for name, pair in pairs.items()
    }
    maps["the scene's own line (not known in use)"] = {
        name: classify(network, along(fit_line(pair), pair.l2a)) for name, pair in pairs.items()
    }
    print("| | agrees with level 1C: " + " | ".join(pairs) + " | right: " + " | ".join(pairs) + " | all | mIoU |")
    for title, found in maps.items():
        agree = [f"{(found[name] == truth[name]).mean():.3f}" for name in pairs]
        right = [f"{accuracy([found[name]], [pairs[name].labels])[0]:.3f}" for name in pairs]
        total, miou = accuracy(list(found.values()), [pair.labels for pair in pairs.values()])
        print("| " + " | ".join([title, *agree, *right, f"{total:.3f}", f"{miou:.3f}"]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

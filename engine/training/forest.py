# SPDX-License-Identifier: GPL-2.0-or-later
"""Grow the random forests that a network is measured against, on the same labels, scenarios and split.

scikit-learn grows the trees; what is kept of them are plain arrays. The settings are those that an analyst would get
from a plugin that trains forests: 100 trees, unpruned, the square root of the features tried at each node, on bands
with means and deviations in windows of 3, 7 and 15 pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..checkpoint.card import Scenario
from ..models.forest import HIGHEST, Forest, ForestConfig, Trees
from .samples import WINDOWS, PixelSamples
from .session import Session

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

TREES = 100
_LEAST = 2


def load_library() -> None:
    """Load scikit-learn; called before anything is trained, so that a broken one is said at once.

    It takes seconds, which a plan and a job without a forest need not spend.
    """
    importlib.import_module("sklearn.ensemble")


def grow_forest(session: Session, samples: PixelSamples, order: Sequence[Scenario]) -> tuple[Forest, list[Scenario]]:
    """Return forests for the scenarios that training pixels allow, and which these are.

    Args:
        session: the scenes, divided and prepared.
        samples: features of their training pixels.
        order: the scenarios wanted.

    Raises:
        CancelledError: when asked to stop.
    """
    from sklearn.ensemble import RandomForestClassifier

    grown = {}
    for number, scenario in enumerate(order):
        session.reporter.check()
        held = np.all([samples.valid[name] for name in scenario], axis=0)
        if len(np.unique(samples.labels[held])) < _LEAST:
            continue
        features = np.concatenate([samples.features[name][held] for name in scenario], axis=1)
        # As many trees at once as there are cores; which trees they are does not depend on it.
        forest = RandomForestClassifier(TREES, random_state=session.seed, n_jobs=-1)
        grown[scenario] = forest.fit(features, samples.labels[held])
        session.reporter.progress(number + 1, len(order), "forests")
    channels = {item.name: len(item.bands) for item in session.modalities}
    return assemble(grown, channels, len(session.classes)), list(grown)


def assemble(grown: Mapping[Scenario, RandomForestClassifier], channels: Mapping[str, int], classes: int) -> Forest:
    """Return the forests of all scenarios, equally many trees in each, as one model."""
    keys = {scenario: "+".join(scenario) for scenario in grown}
    trees = {keys[scenario]: [item.tree_ for item in forest.estimators_] for scenario, forest in grown.items()}
    config = ForestConfig(
        list(WINDOWS),
        max((len(items) for items in trees.values()), default=1),
        {key: sum(tree.node_count for tree in items) for key, items in trees.items()},
        {key: max(tree.max_depth for tree in items) for key, items in trees.items()},
    )
    model = Forest(channels, classes, config)
    for scenario, forest in grown.items():
        _fill(model.trees_of(scenario), forest)
    return model.eval()


def _fill(trees: Trees, forest: RandomForestClassifier) -> None:
    """Copy the trees that scikit-learn has grown; see `Trees` for their form."""
    first = 0
    known = forest.classes_.astype(int)
    for number, item in enumerate(forest.estimators_):
        count = item.tree_.node_count
        order, place = _breadth_first(item)
        inner = item.tree_.children_left[order] >= 0
        nodes = slice(first, first + count)
        trees.roots[number] = first
        trees.feature[nodes] = torch.from_numpy(np.where(inner, item.tree_.feature[order], 0).astype(np.int32))
        trees.threshold[nodes] = torch.from_numpy(np.where(inner, _below(item.tree_.threshold[order]), HIGHEST)).float()
        children = np.where(inner, place[item.tree_.children_left[order]], np.arange(count))
        trees.child[nodes] = torch.from_numpy((first + children).astype(np.int32))
        shares = np.zeros((count, trees.shares.shape[1]))
        shares[:, known] = item.tree_.value[order, 0]
        trees.shares[nodes] = torch.from_numpy(np.rint(255 * shares * ~inner[:, None]).astype(np.uint8))
        first += count


def _breadth_first(tree: DecisionTreeClassifier) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes of a tree in an order in which the children of a node are neighbours, and the place of each."""
    left, right = tree.tree_.children_left, tree.tree_.children_right
    order = [np.array([0])]
    while len(order[-1]):
        parents = order[-1][left[order[-1]] >= 0]
        order.append(np.stack([left[parents], right[parents]], axis=1).ravel())
    nodes = np.concatenate(order)
    return nodes, np.argsort(nodes)


def _below(thresholds: np.ndarray) -> np.ndarray:
    """Return the largest float32 that is not above each of `thresholds`: features of float32 fall on the same side."""
    single = thresholds.astype(np.float32)
    return np.where(single > thresholds, np.nextafter(single, np.float32(-np.inf)), single)

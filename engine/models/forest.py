# SPDX-License-Identifier: GPL-2.0-or-later
"""A random forest for each scenario, on bands and their means and deviations in windows: what a network must beat.

Breiman 2001, "Random Forests", doi:10.1023/A:1010933404324. The trees are arrays in the checkpoint like any weights;
`training.forest` grows them. A forest answers in every scenario it was grown for, and each has trees of its own, so
that a modality outside the scenario enters nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import LacunaError
from .base import reference_size
from .config import bad_config
from .containers import ModuleDictOf
from .made import Made
from .registry import register
from .window_features import placed, strips_of_features

# How much is looked up at once: what a processor's cache holds. Results do not depend on it.
_TREES_AT_ONCE, _PIXELS_AT_ONCE = 25, 2048
# Levels after which pixels that have come to a leaf are left behind.
_LEVELS = 4
# Feature, threshold and child of each node.
_Nodes = tuple[Tensor, Tensor, Tensor]
# Probabilities below this count as this much in the logits: a class that no tree has seen is not impossible.
_LEAST = 1e-3
# What no feature is above; checkpoints hold finite numbers alone.
HIGHEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class ForestConfig:
    """What decides the shapes of the arrays.

    Attributes:
        windows: sides of the windows, odd, in pixels of the reference grid.
        trees: trees of each scenario.
        nodes: for each scenario, its modalities joined by +, the number of nodes of all its trees.
        depths: for each of them the depth of its deepest tree.
    """

    windows: list[int] = field(default_factory=lambda: [3, 7, 15])
    trees: int = 1
    nodes: dict[str, int] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.windows or any(side < 1 or side % 2 == 0 for side in self.windows):
            raise ValueError(f"windows is {self.windows}, expected odd numbers of pixels")
        if self.trees < 1 or any(count < self.trees for count in self.nodes.values()):
            raise ValueError(f"trees is {self.trees} and nodes {self.nodes}, expected at least one node a tree")
        if set(self.nodes) != set(self.depths) or any(not 0 <= depth <= 64 for depth in self.depths.values()):
            raise ValueError(f"depths is {self.depths}, expected one of 0 to 64 for each of {', '.join(self.nodes)}")


class Trees(nn.Module):
    """The trees of one scenario, their nodes in one list.

    Node i asks whether feature `feature[i]` is above `threshold[i]`: if not, `child[i]` comes next, else the node after
    that. A leaf is its own child and asks what nothing can be above.

    Args:
        nodes: how many there are.
        trees: how many trees.
        classes: number of classes K.
        depth: of the deepest tree.
    """

    feature: Tensor
    threshold: Tensor
    child: Tensor
    shares: Tensor
    roots: Tensor

    def __init__(self, nodes: int, trees: int, classes: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.register_buffer("feature", torch.zeros(nodes, dtype=torch.int32))
        self.register_buffer("threshold", torch.full((nodes,), HIGHEST))
        self.register_buffer("child", torch.arange(nodes, dtype=torch.int32))
        # Shares of the classes in a leaf, in steps of 1 / 255; of other nodes 0.
        self.register_buffer("shares", torch.zeros(nodes, classes, dtype=torch.uint8))
        self.register_buffer("roots", torch.zeros(trees, dtype=torch.int32))

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean shares of the classes (K, N) over all trees for `features` (F, N)."""
        nodes = self.feature.long(), self.threshold, self.child.long()
        found = [self._mean_shares(part.T.contiguous(), nodes) for part in features.split(_PIXELS_AT_ONCE, 1)]
        return torch.cat(found).T

    def _mean_shares(self, pixels: Tensor, nodes: _Nodes) -> Tensor:
        """Return the mean shares (N, K) of few pixels (N, F), whose features a processor's cache holds."""
        count = len(pixels)
        total = torch.zeros(count, self.shares.shape[1], device=pixels.device)
        for roots in self.roots.split(_TREES_AT_ONCE):
            leaves = self._leaves(pixels, roots.long(), nodes)
            total += self.shares[leaves].view(len(roots), count, -1).float().sum(0)
        return total / (255.0 * len(self.roots))

    def _leaves(self, pixels: Tensor, roots: Tensor, nodes: _Nodes) -> Tensor:
        """Return the leaf (trees * N) that each pixel of (N, F) comes to in each tree, tree by tree.

        Most leaves lie far above the deepest: every few levels, pixels that have come to one are left behind.
        """
        (feature, threshold, child), flat = nodes, pixels.view(-1)
        leaf = node = roots.repeat_interleave(len(pixels))
        row = (torch.arange(len(pixels), device=pixels.device) * pixels.shape[1]).repeat(len(roots))
        going = torch.arange(len(node), device=pixels.device)
        for level in range(1, self.depth + 1):
            node = child.take(node) + (flat.take(feature.take(node) + row) > threshold.take(node))
            if level % _LEVELS == 0 or level == self.depth:
                leaf[going] = node
                on = (child.take(node) != node).nonzero()[:, 0]
                going, node, row = going[on], node[on], row[on]
        return leaf


@register("forest")
class Forest(Made):
    """Random forests, one a scenario.

    Its features look at `max(windows) // 2` pixels around each pixel; what lies beyond the tile counts as 0, the mean,
    as what lies beyond the scene does. Nothing of it is trained by gradients.
    """

    Config = ForestConfig
    subject = "A random forest"
    hint = "Fine-tune the checkpoint that it was grown beside; that grows a new forest too."
    output_stride = 1

    def __init__(self, modalities: Mapping[str, int], classes: int, config: ForestConfig) -> None:
        super().__init__(modalities, classes, config)
        self.margin = max(config.windows) // 2
        strange = [key for key in config.nodes if not set(key.split("+")) <= set(modalities)]
        if strange:
            known = f"Its modalities are {', '.join(modalities)}."
            raise bad_config("architecture forest", f"has trees for {strange[0]}, which is no scenario", known)
        self.scenarios: ModuleDictOf[Trees] = ModuleDictOf(
            {
                self._key(key.split("+")): Trees(count, config.trees, classes, config.depths[key])
                for key, count in config.nodes.items()
            }
        )

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the logits, logarithms of the shares of the classes; see `SegmentationModel.forward`."""
        names, size = self.present(images), reference_size(images, size)
        trees = self.trees_of(names)
        maps = [placed(images[name].float(), size) for name in names]
        return torch.stack([self._classify(trees, maps) for maps in zip(*maps)])

    def trees_of(self, scenario: Sequence[str]) -> Trees:
        """Return the trees of a scenario; LacunaError `unsupported-scenario` where none were grown for it."""
        key = self._key(scenario)
        if key not in self.scenarios:
            text = f"The forest was not grown for {' + '.join(scenario)}."
            raise LacunaError("unsupported-scenario", text, "Grow one on data that has these modalities.")
        return self.scenarios[key]

    def _key(self, names: Sequence[str]) -> str:
        """Return the name of the module of a scenario."""
        return "s_" + "_".join(str(index) for index, name in enumerate(self.modalities) if name in names)

    def _classify(self, trees: Trees, images: Sequence[Tensor]) -> Tensor:
        """Return the logits (K, H, W) of the images (C, H, W) of a scenario's modalities."""
        strips = strips_of_features(images, self.model_config.windows)
        shares = [trees(features.flatten(1)) for features in strips]
        return torch.cat(shares, 1).clamp(min=_LEAST).log().unflatten(1, tuple(images[0].shape[1:]))

# SPDX-License-Identifier: GPL-2.0-or-later
"""A running average of a model's weights, which is steadier than the weights of any one step.

Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging", doi:10.1137/0330046; exponential, as
in Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WARM_UP = 10


class WeightAverage:
    """The exponential average of weights and buffers over steps; early steps count less, so that it starts quickly.

    Args:
        model: whose weights are averaged; the average starts as they are.
        decay: share of the average that a step keeps, from 0 (the weights themselves) to below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.state: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step `step`, counted from 0 over the whole training."""
        share = 1 - min(self._decay, (1 + step) / (_WARM_UP + step)) if self._decay else 1.0
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, share)
            else:
                self.state[name].copy_(tensor)

    def load(self, state: dict[str, Tensor]) -> None:
        """Set the average to `state`."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

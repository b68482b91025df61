# SPDX-License-Identifier: GPL-2.0-or-later
"""The pretrained encoders by name."""

from __future__ import annotations

from .dynamic_world import DynamicWorldEncoder
from .galileo import GalileoEncoder
from .lite0 import Lite0Encoder
from .pretrained import Pretrained

PRETRAINED: dict[str, type[Pretrained]] = {
    kind.name: kind for kind in (DynamicWorldEncoder, GalileoEncoder, Lite0Encoder)
}

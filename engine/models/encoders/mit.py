# SPDX-License-Identifier: GPL-2.0-or-later
"""MiT, b0 to b5: the Mix Transformer, encoder of SegFormer and of CMX.

Xie et al. 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", section 3.1 and
table 6, https://arxiv.org/abs/2105.15203; written from the paper.
"""

from __future__ import annotations

from .pvt_v2 import PvtV2, Variant

_WIDE = (64, 128, 320, 512)
_QUADRUPLE = (4, 4, 4, 4)
MITS = {
    "mit_b0": Variant((32, 64, 160, 256), (2, 2, 2, 2), _QUADRUPLE),
    "mit_b1": Variant(_WIDE, (2, 2, 2, 2), _QUADRUPLE),
    "mit_b2": Variant(_WIDE, (3, 4, 6, 3), _QUADRUPLE),
    "mit_b3": Variant(_WIDE, (3, 4, 18, 3), _QUADRUPLE),
    "mit_b4": Variant(_WIDE, (3, 8, 27, 3), _QUADRUPLE),
    "mit_b5": Variant(_WIDE, (3, 6, 40, 3), _QUADRUPLE),
}


class Mit(PvtV2):
    """MiT with its published weights' structure.

    Overlapped patch merging, efficient self-attention and Mix-FFN are, layer for layer and norm for norm, the patch
    embedding, spatially reduced attention and convolutional feed-forward of PVT-v2, which appeared at the same time.
    What differs are the sizes: the feed-forward is four times as wide as its stage throughout, and the drop path ends
    at 0.1 in all variants. So the layers are shared, and only the table is its own.

    https://arxiv.org/abs/2105.15203
    """

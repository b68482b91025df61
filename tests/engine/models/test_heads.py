# SPDX-License-Identifier: GPL-2.0-or-later
"""The MLP head equals the form that the paper writes: enlarge, concatenate, merge."""

import torch
from torch.nn import functional as F

from lacuna.engine.models.heads import MLPHead


def test_merging_before_enlarging_changes_nothing():
    head = MLPHead([6, 8, 10, 12], [4, 8, 16, 32], 16, 5).eval()
    maps = [torch.randn(2, count, 32 // 2**level, 48 // 2**level) for level, count in enumerate([6, 8, 10, 12])]
    with torch.no_grad():
        parts = [
            F.interpolate(project(x), size=(32, 48), mode="bilinear", align_corners=False)
            for x, project in zip(maps, head.project)
        ]
        wanted = head.classify(F.relu(head.norm(head.merge(torch.cat(parts, 1)))))
        torch.testing.assert_close(head(maps), wanted, rtol=1e-4, atol=1e-5)


def test_dropout_is_off_in_evaluation():
    head = MLPHead([4, 4, 4, 4], [1, 2, 4, 8], 8, 3, dropout=0.5)
    maps = [torch.randn(1, 4, 16 // 2**level, 16 // 2**level) for level in range(4)]
    with torch.no_grad():
        assert not torch.equal(head.train()(maps), head(maps))
        assert torch.equal(head.eval()(maps), head(maps))

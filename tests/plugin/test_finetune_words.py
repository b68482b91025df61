# SPDX-License-Identifier: GPL-2.0-or-later
"""What the Fine-tune page says of the random forest beside a result."""

from __future__ import annotations

import pytest

from lacuna.ui.finetune_words import forest_words


def result(own, forest):
    def scores(miou):
        return [{"available": ["optical", "radar"], "miou": miou}]

    return {"after": scores(own), "forest": {"scores": scores(forest)}}


@pytest.mark.parametrize("forest", [0.60, 0.70, 0.709])
def test_a_forest_that_is_hardly_ahead_is_not_called_better(forest):
    assert forest_words(result(0.70, forest)) == ["A random forest on the same labels is better in no scenario."]


def test_a_forest_that_is_ahead_is_named_with_both_figures():
    (words,) = forest_words(result(0.70, 0.72))
    assert "better with optical + radar (0.72 : 0.70)" in words


def test_without_a_forest_nothing_is_said():
    assert forest_words({"after": [], "forest": None}) == []

# SPDX-License-Identifier: GPL-2.0-or-later
"""EMM, RMM and NM: the damage number by number, the draws, and the aggregates in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.data.confusion import ConfusionMatrix
from lacuna.engine.evaluation.robustness import (
    NM_LEVELS,
    Damage,
    aggregate,
    benchmark_scores,
    damages,
    drop_values,
    expected_score,
    salt_and_pepper,
)

NAMES = ("rgb", "depth", "event", "lidar")


def images(names=NAMES, size=(50, 60)):
    """Values strictly between -2 and 2, none of them 0, and one that is the largest and one the smallest."""
    made = {}
    for index, name in enumerate(names):
        image = torch.rand((2, *size), generator=torch.Generator().manual_seed(index)) + 0.5
        image[0, 0, 0], image[1, 3, 5] = 1.75, -1.5
        made[name] = image
    return made


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_emm_sets_the_damaged_to_zero_and_leaves_the_rest():
    clean = images()
    found = Damage("emm", NAMES, ("rgb", "lidar"))(clean, "scene", 0)
    assert not found["rgb"].any() and not found["lidar"].any()
    assert found["depth"] is clean["depth"]
    assert clean["rgb"].all()


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_rmm_drops_each_number_with_the_probability_of_its_level(ratio):
    image = images(size=(120, 120))["rgb"]
    found = drop_values(image, ratio, generator())
    share = float((found == 0).double().mean())
    assert abs(share - ratio) < 5 * math.sqrt(ratio * (1 - ratio) / image.numel())
    assert torch.equal(found[found != 0], image[found != 0])
    # Channels are dropped each for itself, not whole pixels.
    both = float(((found == 0).sum(dim=0) == 2).double().mean())
    assert abs(both - ratio**2) < 5 * math.sqrt(ratio**2 / (120 * 120))


def test_draws_hang_on_seed_case_scene_and_tile_alone():
    def dropped(seed=0, damaged=("rgb",), level=0.5, scene="here", tile=3):
        return Damage("rmm", NAMES, damaged, level, seed)(images(), scene, tile)["rgb"]

    first = dropped()
    torch.manual_seed(99)
    assert torch.equal(first, dropped())
    others = [dropped(seed=1), dropped(damaged=("rgb", "depth")), dropped(scene="there"), dropped(tile=4)]
    for index, other in enumerate(others):
        assert not torch.equal(first, other)
        assert not any(torch.equal(other, another) for another in others[:index])


def test_modalities_of_one_case_are_not_damaged_alike():
    found = Damage("rmm", NAMES, NAMES[:2], 0.5)(images(), "here", 0)
    assert not torch.equal(found["rgb"] == 0, found["depth"] == 0)


@pytest.mark.parametrize("level", NM_LEVELS)
def test_salt_and_pepper_hit_as_many_as_draws_with_replacement_do(level):
    density = NM_LEVELS[level][0]
    image = images(size=(100, 130))["rgb"]
    numbers = image.numel()
    draws = math.ceil(0.5 * density * numbers)
    found = salt_and_pepper(image, density, generator(4))
    pepper, salt = int((found == -1.5).sum()), int((found == 1.75).sum())
    assert pepper <= draws + 1
    assert salt <= draws + 1
    # Of n draws among N numbers N (1 - (1 - 1/N)^n) are different; pepper then covers the same share of the salt.
    hit = 1 - (1 - 1 / numbers) ** draws
    spread = 5 * math.sqrt(numbers * hit * (1 - hit)) + 1
    assert abs(pepper - numbers * hit) < spread
    assert abs(salt - numbers * hit * (1 - hit)) < spread
    untouched = (found != -1.5) & (found != 1.75)
    assert torch.equal(found[untouched], image[untouched])


def test_salt_and_pepper_reach_every_edge_of_the_image():
    found = salt_and_pepper(torch.rand((3, 8, 9), generator=generator()), 0.999, generator(1))
    extremes = (found == found.max()) | (found == found.min())
    for side in (extremes[:, 0], extremes[:, -1], extremes[:, :, 0], extremes[:, :, -1], extremes[0], extremes[-1]):
        assert side.any()


def test_nm_adds_gaussian_noise_but_not_to_the_modalities_that_are_spared():
    density, deviation = NM_LEVELS["high"]
    damage = Damage("nm", NAMES, NAMES, "high", no_gaussian=("event",))
    clean = images(size=(100, 100))
    found = damage(clean, "here", 0)
    kept = found["event"] == clean["event"]
    assert float(kept.double().mean()) > 1 - density
    noise = (found["lidar"] - clean["lidar"]).flatten()
    # Where neither salt nor pepper fell, the difference is the noise: its median deviation is that of a normal one.
    assert float(noise.abs().median()) == pytest.approx(0.6745 * deviation, rel=0.25)
    assert not (found["lidar"] == clean["lidar"]).any()


def test_cases_are_all_sets_but_the_one_with_everything_damaged():
    found = damages("emm", NAMES, seed=7)
    assert len(found) == 2**4 - 1
    assert [case.intact for case in found[:5]] == [("rgb",), ("depth",), ("event",), ("lidar",), ("rgb", "depth")]
    assert found[-1].damaged == ()
    assert all(case.modalities == NAMES and case.seed == 7 for case in found)
    assert all(set(case.intact) | set(case.damaged) == set(NAMES) for case in found)
    assert [case.level for case in damages("rmm", NAMES[:2], 0)] == [0.25] * 3 + [0.5] * 3 + [0.75] * 3
    assert [(case.level, case.intact) for case in damages("nm", NAMES, 0)] == [("low", ()), ("mid", ()), ("high", ())]


@pytest.mark.parametrize("rate", [0.2, 0.1, 0.05])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_the_weights_of_the_expected_score_sum_to_one_less_the_chance_that_all_fail(rate, count):
    cases = [(len(case.damaged), 1.0) for case in damages("emm", tuple(map(str, range(count))), 0)]
    weights = [rate**damaged * (1 - rate) ** (count - damaged) for damaged, _ in cases]
    assert sum(weights) == pytest.approx(1 - rate**count)
    assert expected_score(cases, count, rate) == pytest.approx(1)
    undamaged = [(damaged, float(damaged == 0)) for damaged, _ in cases]
    assert expected_score(undamaged, count, rate) == pytest.approx((1 - rate) ** count / (1 - rate**count))


def test_aggregates_worked_out_by_hand():
    cases = [
        {"damaged": ["b"], "miou": 0.4, "f1": 0.5, "macc": 0.6},
        {"damaged": ["a"], "miou": 0.2, "f1": 0.3, "macc": 0.4},
        {"damaged": [], "miou": 0.9, "f1": 1.0, "macc": 1.0},
    ]
    found = aggregate(cases, 2)
    assert found["average"] == 0.5
    assert (found["best"], found["last"]) == (0.9, 0.2)
    assert found["by_damaged"] == [0.9, 0.3]
    assert found["retention"] == pytest.approx(0.5 / 0.9, abs=1e-6)
    assert found["expected"]["0.1"] == pytest.approx((0.81 * 0.9 + 0.09 * 0.4 + 0.09 * 0.2) / 0.99, abs=1e-6)
    assert found["f1"]["average"] == 0.6
    assert found["macc"]["expected"]["0.2"] == pytest.approx((0.64 + 0.16 * 0.6 + 0.16 * 0.4) / 0.96, abs=1e-6)


def test_the_expected_score_lies_between_average_and_undamaged():
    """The published table has one figure that breaks this rule, which gives it away as a misprint."""
    cases = [{"damaged": list(case.damaged), "miou": 0.9 / (1 + len(case.damaged)), "f1": 0, "macc": 0}
             for case in damages("emm", NAMES, 0)]  # fmt: skip
    found = aggregate(cases, 4)
    values = [found["average"], *(found["expected"][rate] for rate in ("0.2", "0.1", "0.05")), 0.9]
    assert values == sorted(values)


def test_absent_classes_count_as_zero_and_scores_come_in_hundredths_of_a_per_cent():
    matrix = ConfusionMatrix(4)
    matrix.counts[:2, :2] = [[2, 1], [0, 4]]
    assert benchmark_scores(matrix) == {
        "miou": round((2 / 3 + 4 / 5) / 4, 4),
        "f1": round((4 / 5 + 8 / 9) / 4, 4),
        "macc": round((2 / 3 + 1) / 4, 4),
    }
    assert matrix.miou() == pytest.approx((2 / 3 + 4 / 5) / 2)


@given(st.floats(0.01, 0.99), st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_an_expected_score_is_a_mean(rate, scores):
    cases = [(len(case.damaged), score) for case, score in zip(damages("emm", NAMES[:3], 0), scores, strict=True)]
    assert min(scores) - 1e-9 <= expected_score(cases, 3, rate) <= max(scores) + 1e-9


def test_recall_by_class():
    matrix = ConfusionMatrix(3)
    matrix.counts[:2, :2] = [[2, 1], [0, 4]]
    assert matrix.recall_by_class() == pytest.approx([2 / 3, 1, np.nan], nan_ok=True)

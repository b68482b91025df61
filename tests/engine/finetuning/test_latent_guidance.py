# SPDX-License-Identifier: GPL-2.0-or-later
"""Latent guidance: the published numbers, closed forms, and what must hold whatever the distortions are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.finetuning.latent_guidance import (
    PAPER,
    Distortions,
    Guidance,
    descriptor,
    estimate,
    guide,
    rbf_kernel,
    smooth,
    to_probabilities,
)

PUBLISHED = np.array([0.5, 0.8, 0.9, 0.15, 0.2, 0.6, 0.0])
DEFAULT, THE_PAPER = Guidance(), Guidance(**PAPER)
MEASURED = st.lists(st.floats(0, 1e3), min_size=6, max_size=6)


def distortions(mean, shift=None, names="abc"):
    mean = np.append(mean, 0.0) if len(mean) == 6 else np.asarray(mean, np.float64)
    shift = np.zeros((len(mean), 1)) if shift is None else shift
    return Distortions(scenarios(list(names)), mean, np.zeros(len(mean)), shift, 8)


def test_the_published_numbers():
    found = guide(distortions(PUBLISHED), THE_PAPER)
    assert found.probabilities.round(4).tolist() == [0.1402, 0.1820, 0.1984, 0.1105, 0.1136, 0.1525, 0.1029]


def test_the_preset_paper_is_the_published_formula_to_the_last_digit():
    """Kernel on the distortion itself, explicit inverse, population z-score, softmax, half uniform."""
    kernel = np.exp(-((PUBLISHED[:, None] - PUBLISHED[None]) ** 2) / 2)
    smoothed = kernel @ np.linalg.inv(kernel + 1e-3 * np.eye(7)) @ PUBLISHED
    z = (smoothed - smoothed.mean()) / smoothed.std()
    softmax = np.exp(0.5 * z) / np.exp(0.5 * z).sum()
    found = guide(distortions(PUBLISHED), THE_PAPER)
    assert found.kernel == pytest.approx(kernel)
    assert found.smoothed == pytest.approx(smoothed, rel=1e-9)
    assert found.probabilities == pytest.approx(0.5 / 7 + 0.5 * softmax, rel=1e-9)


@pytest.mark.parametrize("settings", [DEFAULT, THE_PAPER, replace(DEFAULT, softmax_share=1.0, full_floor=0.0)])
@given(MEASURED)
def test_probabilities_sum_to_1_and_keep_their_floors(settings, mean):
    found = guide(distortions(mean), settings).probabilities
    assert found.sum() == pytest.approx(1)
    assert (found >= (1 - settings.softmax_share) / 7 - 1e-12).all()
    assert found[-1] >= settings.full_floor / 7 - 1e-12


@given(MEASURED, st.floats(1e-3, 1e3))
def test_the_default_does_not_hang_on_the_unit_of_the_latent(mean, unit):
    first = guide(distortions(mean), DEFAULT).probabilities
    assert guide(distortions(np.array(mean) * unit), DEFAULT).probabilities == pytest.approx(first, abs=1e-6)


@given(MEASURED)
def test_the_more_a_scenario_is_distorted_the_more_often_it_is_drawn(mean):
    scores = np.append(mean, 0.0)
    found = to_probabilities(scores, THE_PAPER)
    order = np.argsort(scores)
    assert (np.diff(found[order]) >= -1e-12).all()


@pytest.mark.parametrize("settings", [DEFAULT, THE_PAPER])
def test_equal_distortions_make_all_scenarios_equal(settings):
    assert to_probabilities(np.full(7, 0.3), settings) == pytest.approx(np.full(7, 1 / 7))
    assert to_probabilities(np.zeros(1), settings) == pytest.approx([1])


def test_the_paper_draws_the_full_scenario_least_and_the_default_as_often_as_uniform_would():
    assert guide(distortions(PUBLISHED), THE_PAPER).probabilities.argmin() == 6
    assert guide(distortions(PUBLISHED), DEFAULT).probabilities[-1] == pytest.approx(1 / 7)


def test_temperature_and_share_say_what_they_do():
    flat = to_probabilities(PUBLISHED, replace(THE_PAPER, inverse_temperature=0.0))
    assert flat == pytest.approx(np.full(7, 1 / 7))
    assert to_probabilities(PUBLISHED, replace(THE_PAPER, softmax_share=0.0)) == pytest.approx(flat)
    sharp = [to_probabilities(PUBLISHED, replace(THE_PAPER, inverse_temperature=tau)).max() for tau in (0.5, 1, 2)]
    assert sharp == sorted(sharp)


def test_smoothing_is_kernel_ridge_regression():
    kernel = np.array([[1.0, 0.5], [0.5, 1.0]])
    # (K + I)^-1 = [[2, -.5], [-.5, 2]] / 3.75, so K (K + I)^-1 (1, 0) = (1.75, .5) / 3.75.
    assert smooth(kernel, np.array([1.0, 0.0]), 1.0, centred=False) == pytest.approx([1.75 / 3.75, 0.5 / 3.75])
    centred = smooth(kernel, np.array([1.0, 0.0]), 1.0, centred=True)
    assert centred.sum() == pytest.approx(1)
    assert smooth(kernel, np.array([3.0, 3.0]), 1.0, centred=True) == pytest.approx([3, 3])
    assert smooth(kernel, np.array([1.0, 0.0]), 1e-12, centred=False) == pytest.approx([1, 0])


def test_the_default_smoothing_moves_probabilities_and_the_papers_hardly_does():
    def moved(settings):
        raw = to_probabilities(PUBLISHED, settings)
        return np.abs(guide(distortions(PUBLISHED), settings).probabilities - raw).sum() / 2

    assert moved(THE_PAPER) < 0.0033
    assert moved(DEFAULT) > 0.01


def test_the_kernel_relates_scenarios_that_share_modalities():
    kernel = rbf_kernel(descriptor(distortions(PUBLISHED), "relation"), None)
    names = [frozenset(scenario) for scenario in scenarios(list("abc"))]
    assert np.diag(kernel) == pytest.approx(1)
    assert kernel == pytest.approx(kernel.T)
    for i, first in enumerate(names):
        nearer = sorted(range(7), key=lambda j: -kernel[i, j])
        apart = [len(first ^ names[j]) for j in nearer]
        assert apart == sorted(apart)


def test_the_kernel_relates_scenarios_that_move_the_latent_alike():
    shift = np.zeros((7, 2))
    shift[[0, 2]] = [[5.0, 0.0], [5.0, 0.1]]
    shift[1] = [-5.0, 3.0]
    kernel = rbf_kernel(descriptor(distortions(PUBLISHED, shift), "relation"), None)
    assert kernel[0, 2] > kernel[0, 1]
    blind = rbf_kernel(descriptor(distortions(PUBLISHED), "relation"), None)
    assert blind[0, 2] == pytest.approx(blind[0, 1])


def test_the_bandwidth_is_the_median_distance():
    points = np.array([[0.0], [1.0], [3.0]])
    assert rbf_kernel(points, None)[0, 1] == pytest.approx(np.exp(-1 / (2 * 2**2)))
    assert rbf_kernel(points, 1.0)[0, 1] == pytest.approx(np.exp(-0.5))
    assert rbf_kernel(np.zeros((3, 1)), None) == pytest.approx(np.ones((3, 3)))


def test_distortions_and_their_errors():
    differences = np.array([[1.0, 3.0, 2.0, 6.0], [0, 0, 0, 0]])
    squares = np.array([2.0, 2.0, 4.0, 8.0])
    absolute = estimate([("a",), ("a", "b")], differences, squares, np.zeros((2, 1)), relative=False)
    assert absolute.mean == pytest.approx([3, 0])
    assert absolute.error == pytest.approx([differences[0].std(ddof=1) / 2, 0])
    relative = estimate([("a",), ("a", "b")], differences, squares, np.zeros((2, 1)), relative=True)
    assert relative.mean == pytest.approx([0.75, 0])
    residuals = differences[0] - 0.75 * squares
    assert relative.error == pytest.approx([np.sqrt((residuals**2).sum() / 3 / 4) / 4, 0])


def test_the_error_of_a_ratio_holds_in_simulation():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        squares = rng.uniform(1, 3, 50)
        differences = np.stack([squares * 0.4 + rng.normal(0, 0.2, 50), np.zeros(50)])
        found.append(estimate([("a",), ("a", "b")], differences, squares, np.zeros((2, 1)), relative=True))
    errors, means = (np.array([getattr(item, name)[0] for item in found]) for name in ("error", "mean"))
    assert errors.mean() == pytest.approx(means.std(), rel=0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bandwidth": 0.0},
        {"ridge": 0.0},
        {"ridge": float("nan")},
        {"inverse_temperature": -1.0},
        {"softmax_share": 1.5},
        {"full_floor": -0.1},
        {"samples": 1},
        {"refresh": -1},
    ],
)
def test_settings_out_of_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Guidance(**wrong)

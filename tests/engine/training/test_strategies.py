# SPDX-License-Identifier: GPL-2.0-or-later
"""Strategies: the probabilities of each against closed forms, and draws that never leave what a crop has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.checkpoint.card import Card, ClassInfo, Modality, scenarios
from lacuna.engine.errors import UsageError
from lacuna.engine.training.strategies import (
    RULES,
    Strategy,
    anyseg_probabilities,
    full_probabilities,
    given_probabilities,
    mas_probabilities,
    named_strategy,
    restricted,
    supported,
    uniform_probabilities,
)

THREE = scenarios(["a", "b", "c"])
CLOSED_FORMS = {
    full_probabilities: [0, 0, 0, 0, 0, 0, 1],
    uniform_probabilities: [1 / 7] * 7,
    anyseg_probabilities: [1 / 9] * 6 + [1 / 3],
    mas_probabilities: [1 / 6, 1 / 6, 1 / 6, 0, 0, 0, 1 / 2],
}


def card(required=(), **values):
    modalities = [Modality(name, ["x"], required=name in required) for name in "abc"]
    return Card({"name": "sgma", "config": {}}, modalities, [ClassInfo(0, "x"), ClassInfo(1, "y")], "a", **values)


@pytest.mark.parametrize("rule", CLOSED_FORMS, ids=lambda rule: rule.__name__)
def test_closed_forms_for_three_modalities(rule):
    assert rule(THREE) == pytest.approx(CLOSED_FORMS[rule])


@pytest.mark.parametrize("rule", CLOSED_FORMS, ids=lambda rule: rule.__name__)
@given(st.integers(1, 5), st.sets(st.integers(0, 4)), st.randoms())
def test_every_rule_gives_a_distribution_over_what_is_supported(rule, count, required, random):
    names = list("abcde")[:count]
    order = supported([Modality(name, ["x"], required=index in required) for index, name in enumerate(names)])
    found = rule(order)
    assert found.shape == (len(order),)
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1)
    assert found[-1] == pytest.approx(found.max())


def test_with_one_modality_required_the_smallest_scenario_of_mas_is_that_one():
    order = card(required=["b"]).supported()
    assert order == [("b",), ("a", "b"), ("b", "c"), ("a", "b", "c")]
    assert mas_probabilities(order) == pytest.approx([0.5, 0, 0, 0.5])
    assert anyseg_probabilities(order) == pytest.approx([1 / 3, 1 / 6, 1 / 6, 1 / 3])


def test_a_single_scenario_is_certain():
    for rule in CLOSED_FORMS:
        assert rule([("a",)]) == pytest.approx([1])


@given(
    st.lists(st.floats(0, 1), min_size=7, max_size=7).filter(lambda values: sum(values) > 1e-3),
    st.sets(st.sampled_from("abc"), min_size=1),
)
def test_a_crop_that_lacks_modalities_draws_among_what_it_has(weights, available):
    probabilities = np.array(weights) / sum(weights)
    available = tuple(name for name in "abc" if name in available)
    shares = restricted(THREE, probabilities, available)
    possible = np.array([set(scenario) <= set(available) for scenario in THREE])
    assert shares.sum() == pytest.approx(1)
    assert (shares[~possible] == 0).all()
    left = probabilities * possible
    if left.sum() > 0:
        assert shares == pytest.approx(left / left.sum())
    else:
        assert THREE[shares.argmax()] == available
    assert set(Strategy(THREE, probabilities)(available, np.random.default_rng(0))) <= set(available)


def test_draws_come_as_often_as_their_probability():
    probabilities = np.array([0.3, 0.05, 0.0, 0.25, 0.1, 0.0, 0.3])
    draw, rng = Strategy(THREE, probabilities), np.random.default_rng(0)
    drawn = [THREE.index(draw(("a", "b", "c"), rng)) for _ in range(4000)]
    assert np.bincount(drawn, minlength=7) / 4000 == pytest.approx(probabilities, abs=0.025)
    assert not {2, 5} & set(drawn)


def test_without_a_possible_scenario_the_crop_stays_as_it_is():
    order = card(required=["b"]).supported()
    assert Strategy(order, uniform_probabilities(order))(("a",), np.random.default_rng(0)) == ("a",)


@pytest.mark.parametrize("name", list(RULES))
def test_every_rule_gives_probabilities_over_the_supported_scenarios(name):
    strategy = named_strategy(name, card(required=["b"]).modalities)
    assert strategy.order == card(required=["b"]).supported()
    assert strategy.probabilities.sum() == pytest.approx(1)
    assert (strategy.probabilities >= 0).all()


def test_the_strategy_full_leaves_every_modality_in():
    assert named_strategy("full", card().modalities)(("a", "c"), np.random.default_rng(0)) == ("a", "c")


def test_given_weights_stand_in_the_order_of_the_contract():
    assert given_probabilities(card(), [1, 0, 0, 0, 0, 0, 3]) == pytest.approx([0.25, 0, 0, 0, 0, 0, 0.75])


def test_weights_may_list_all_scenarios_or_the_supported_ones():
    base = card(required=["b"])
    wanted = pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert given_probabilities(base, [1, 2, 3, 4]) == wanted
    assert given_probabilities(base, [0, 1, 0, 2, 0, 3, 4]) == wanted


@pytest.mark.parametrize(
    ("weights", "word"),
    [
        ([1, 2], "2 weights"),
        ([0] * 7, "not all of them 0"),
        ([-1, 1, 1, 1, 1, 1, 1], "at least 0"),
        ([float("nan")] * 7, "at least 0"),
        ([1, 1, 1, 1, 1, 1, 1], "does not support a; c; a + c"),
    ],
)
def test_wrong_weights_are_named(weights, word):
    with pytest.raises(UsageError, match=r".*" + word.replace("+", r"\+")) as caught:
        given_probabilities(card(required=["b"] if "support" in word else ()), weights)
    assert caught.value.code == "bad-weights"


def test_scenarios_that_the_card_does_not_list_are_left_out():
    base = card(scenarios=[["a"], ["a", "b", "c"]])
    assert given_probabilities(base, [1, 1]) == pytest.approx([0.5, 0.5])

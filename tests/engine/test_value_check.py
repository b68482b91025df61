# SPDX-License-Identifier: GPL-2.0-or-later
"""Values against a card without a raster: what fits is not told, what is outside is told by band and how far."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.value_check import (
    PERCENTS,
    carries_new_offset,
    changed,
    check_values,
    expected_range,
    new_offset_weighs,
)

NAMES = ["B02", "B03", "B04", "B08", "B11"]
GENERATOR = np.random.default_rng(0)


def statistics(values):
    """Return what a card says of training data (bands, n)."""
    low, high = np.percentile(values, [1, 99], axis=1)
    found = {"minimum": values.min(1), "maximum": values.max(1), "mean": values.mean(1), "std": values.std(1)}
    return {name: [float(one) for one in many] for name, many in {**found, "p01": low, "p99": high}.items()}


def quantiles(values):
    return np.percentile(values, PERCENTS, axis=1).T.tolist()


TRAINED = GENERATOR.gamma(4, 400, (5, 20_000))
OPTICAL = Modality("optical", NAMES, "surface reflectance x 10,000", statistics=statistics(TRAINED))
HEIGHT = Modality("height", ["height"], "m", statistics=statistics(GENERATOR.uniform(2, 300, (1, 5000))))
SCENE = quantiles(TRAINED[:, :3000])


def texts(modality, found, told=0.0):
    return [fault.text for fault in check_values(modality, found, told)]


@given(st.integers(0, 2**32 - 1), st.floats(0.7, 1.4), st.integers(200, 5000))
def test_a_scene_from_the_same_ground_is_never_told_of(seed, light, pixels):
    scene = np.random.default_rng(seed).choice(TRAINED, pixels, axis=1) * light
    assert texts(OPTICAL, quantiles(scene)) == []


@given(st.floats(3, 40), st.lists(st.sampled_from(range(5)), min_size=1, max_size=4, unique=True), st.booleans())
def test_bands_that_are_far_outside_are_told_and_no_other(far, moved, above):
    deviations = np.array(OPTICAL.statistics["std"])
    shift = np.zeros(5)
    shift[moved] = (far + 8) * deviations[moved] * (1 if above else -1)
    faults = check_values(OPTICAL, [[value + by for value in band] for band, by in zip(SCENE, shift)])
    assert {name for fault in faults for name in fault.bands} == {NAMES[band] for band in moved}
    ranges = [fault.text for fault in faults if fault.kind == "range"]
    assert all(("brighter" if above else "darker") in text for text in ranges)


@given(st.floats(0.01, 100) | st.floats(-100, -0.01), st.floats(-5000, 5000))
def test_a_change_of_values_is_the_same_before_and_after_percentiles(scale, offset):
    values = TRAINED[:2, :300]
    assert np.allclose(changed(quantiles(values), scale, offset), quantiles(values * scale + offset), atol=1e-6)


@given(st.floats(1, 30))
def test_what_a_change_does_to_card_and_scene_alike_changes_nothing(scale):
    """Percentiles and deviations are in the units of the file: whatever those are, the words are the same."""
    plain = Modality("other", NAMES, statistics=statistics(TRAINED))
    scaled = Modality("other", NAMES, statistics=statistics(TRAINED * scale))
    outside = changed(SCENE, offset=4500)
    assert texts(plain, outside) == texts(scaled, changed(outside, scale)) != []


def test_the_worst_band_comes_first_and_three_are_named():
    shift = [3000, 9000, 6000, 12000, 15000]
    (text,) = texts(OPTICAL, [[value + by for value in band] for band, by in zip(SCENE, shift)])
    first, second, third, rest, *_ = text.split(", ")
    assert first.startswith("B11 is about ") and first.endswith(" brighter than anything this checkpoint has seen")
    assert second.startswith("B08 about ") and third.startswith("B03 about ") and rest.startswith("and ")
    assert text.endswith("; its measured accuracy does not hold here.")


def test_bands_on_either_side_are_told_apart():
    shift = [9000, 0, 0, 0, -9000]
    (text,) = texts(OPTICAL, [[value + by for value in band] for band, by in zip(SCENE, shift)])
    assert "B11 is about" in text and "deviations darker than" in text and text.count(" brighter") == 1


def test_heights_are_high_and_not_bright():
    (text,) = texts(HEIGHT, changed(quantiles(GENERATOR.uniform(10, 200, (1, 500))), offset=1500))
    assert text.startswith("its values are about ") and "higher than anything this checkpoint has seen" in text


def test_a_part_beyond_all_that_was_seen_is_told_as_a_part():
    values = GENERATOR.uniform(10, 250, (1, 1000))
    values[0, :300] += 2000
    (text,) = texts(HEIGHT, quantiles(values))
    assert text.startswith("30 % of its pixels are higher than anything this checkpoint has seen")
    values[0, 50:300] -= 2000
    assert texts(HEIGHT, quantiles(values)) == []


def test_low_ground_is_no_other_unit():
    card = Modality("elevation", ["elevation"], "m", statistics=statistics(GENERATOR.uniform(1, 1200, (1, 5000))))
    assert texts(card, quantiles(GENERATOR.uniform(3, 9, (1, 500)))) == []


@pytest.mark.parametrize(
    ("card", "found", "said"),
    [
        (HEIGHT, changed(quantiles(GENERATOR.uniform(110, 200, (1, 500))), 100), "such as centimetres"),
        (OPTICAL, changed(SCENE, 1e-4), "band B02, B03, B04 and 2 more, with values from"),
        (OPTICAL, changed(SCENE, 1e-4), "multiplied by 1e4"),
        (OPTICAL, [[0.0] * 101, *SCENE[1:]], "band B02, with values from 0 to 0 in a sample, is zero throughout"),
    ],
)
def test_units_and_empty_bands_are_told_and_nothing_beside(card, found, said):
    (text,) = texts(card, found)
    assert said in text and "does not hold" not in text


def test_one_odd_band_is_no_other_unit():
    found = [*SCENE[:4], [value / 200 for value in SCENE[4]]]
    assert not any("unit" in text for text in texts(OPTICAL, found))


def test_a_band_of_one_value_in_training_may_have_no_other():
    card = Modality("optical", ["B10"], statistics=statistics(np.full((1, 50), 7.0)))
    assert texts(card, [[7.0] * 101]) == []
    (text,) = texts(card, [[float(value) for value in PERCENTS]])
    assert "is not the one value that it has in all of the training data" in text and "Expected: about 7 to 7" in text


def test_a_flat_scene_is_told_of_only_where_it_is_outside():
    assert texts(HEIGHT, [[150.0] * 101]) == []
    assert "higher" in texts(HEIGHT, [[900.0] * 101])[0]


@pytest.mark.parametrize(
    "known", [{}, {"mean": [1.0] * 5, "std": [1.0] * 5}, {"p01": [1.0] * 5}, {"minimum": [0.0] * 5, "p99": [9.0] * 5}]
)
def test_without_a_range_in_the_card_nothing_is_compared(known):
    assert texts(Modality("optical", NAMES, statistics=known), SCENE) == []
    assert expected_range(Modality("optical", NAMES, statistics=known)) is None


def test_no_valid_pixel_is_nothing_to_tell_of():
    assert texts(OPTICAL, []) == []


def test_percentiles_alone_suffice():
    known = {name: OPTICAL.statistics[name] for name in ("p01", "p99")}
    (text,) = texts(Modality("optical", NAMES, statistics=known), changed(SCENE, 5))
    assert "brighter than nearly all that this checkpoint has seen" in text


def test_what_the_network_hardly_sees_is_not_told():
    """Trained on a plain, with heights that are divided by 50 m: two metres above the plain are next to nothing."""
    known = statistics(GENERATOR.uniform(50, 54, (1, 500)))
    scaling = [{"type": "z_score", "mean": 50.0, "std": 50.0}]
    found = [[56.0 + percent / 100 for percent in PERCENTS]]
    assert texts(Modality("height", ["height"], "m", statistics=known), found) != []
    assert texts(Modality("height", ["height"], "m", scaling=scaling, statistics=known), found) == []


class TestOffset:
    """An offset of +1000 is proposed, so that it is not also told as a brightness."""

    dark = [[value * 0.2 for value in band] for band in SCENE]

    def test_it_is_told_by_values_that_all_begin_above_it(self):
        assert carries_new_offset(OPTICAL, changed(SCENE, offset=1000))
        assert new_offset_weighs(OPTICAL, changed(SCENE, offset=1000))
        assert not carries_new_offset(OPTICAL, SCENE) and not new_offset_weighs(OPTICAL, SCENE)

    def test_it_does_not_weigh_where_the_training_data_vary_far_more(self):
        wide = Modality("optical", NAMES, statistics=statistics(TRAINED * np.linspace(0.1, 4, 20_000)))
        wide.statistics["std"] = [4000.0] * 5
        assert carries_new_offset(wide, changed(SCENE, offset=1000))
        assert not new_offset_weighs(wide, changed(SCENE, offset=1000))

    def test_it_weighs_where_it_takes_the_values_beyond_all(self):
        low = {"p01": [10.0] * 5, "p99": [1200.0] * 5, "minimum": [0.0] * 5, "maximum": [1300.0] * 5}
        wide = Modality("optical", NAMES, statistics={**low, "std": [2100.0] * 5})
        assert new_offset_weighs(wide, changed(self.dark, offset=1000)) is False
        wide.statistics.update(p99=[400.0] * 4 + [1100.0], maximum=[500.0] * 4 + [1200.0])
        assert new_offset_weighs(wide, changed(self.dark, offset=1000))

    def test_what_it_explains_is_not_told_again(self):
        low = {"p01": [10.0] * 5, "p99": [1000.0] * 5, "std": [200.0] * 5}
        card = Modality("optical", NAMES, "reflectance x 10000", statistics=low)
        moved = changed(self.dark, offset=1000)
        assert len(texts(card, moved)) == 1
        assert texts(card, moved, told=-1000.0) == []
        assert len(texts(card, changed(moved, 3), told=-1000.0)) == 1

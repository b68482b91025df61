# SPDX-License-Identifier: GPL-2.0-or-later
"""Scaling: each step does what the contract says, for one number or one for each band."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lacuna.engine.errors import LacunaError
from lacuna.engine.raster.scaling import scale

VALUES = np.array([[[0, 100], [200, 50]], [[1000, -1000], [0, 3]]], dtype=np.int16)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"type": "none"}, VALUES),
        ({"type": "offset_scale", "offset": 3.0, "scale": 0.5}, VALUES * 0.5 + 3),
        ({"type": "min_max", "minimum": -1000, "maximum": 1000}, (VALUES + 1000) / 2000),
        ({"type": "clip", "minimum": 2, "maximum": 60}, np.clip(VALUES, 2, 60)),
        ({"type": "z_score", "mean": 50.0, "std": 20.0}, (VALUES - 50.0) / 20),
        (
            {"type": "z_score", "mean": [100.0, -5.0], "std": [2.0, 4.0]},
            np.stack([(VALUES[0] - 100.0) / 2, (VALUES[1] + 5.0) / 4]),
        ),
        (
            {"type": "offset_scale", "offset": [1.0], "scale": [2.0, 4.0]},
            np.stack([VALUES[0] * 2.0, VALUES[1] * 4.0]) + 1,
        ),
    ],
)
def test_each_step(step, expected):
    scaled = scale(VALUES, [step])
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, rtol=1e-6, atol=1e-6)


def test_a_chain_runs_in_its_order():
    clip = {"type": "clip", "minimum": 0, "maximum": 100}
    shift = {"type": "offset_scale", "offset": -50.0, "scale": 1.0}
    np.testing.assert_array_equal(scale(VALUES, [clip, shift]), np.clip(VALUES, 0, 100) - 50)
    np.testing.assert_array_equal(scale(VALUES, [shift, clip]), np.clip(VALUES - 50, 0, 100))


def test_input_is_left_alone_and_nan_stays():
    values = np.array([[np.nan, 2.0]], np.float32)
    scaled = scale(values, [{"type": "z_score", "mean": 1.0, "std": 2.0}])
    assert np.isnan(scaled[0, 0])
    assert scaled[0, 1] == 0.5
    assert values[0, 1] == 2.0


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"type": "root"}, "no known type"),
        ({"type": "clip", "minimum": 0}, "takes minimum, maximum"),
        ({"type": "z_score", "mean": [1.0, 2.0, 3.0], "std": 1.0}, "one for each of 2 bands"),
        ({"type": "min_max", "minimum": 4, "maximum": 4}, "minimum below its maximum"),
        ({"type": "log", "scale": 0.1}, "needs a clip right before it"),
        ({"type": "log", "scale": -0.1}, "scale above 0"),
        ({"type": "log"}, "takes scale; found none"),
        ({"type": "logistic", "offset": 1.0, "scale": [1.0, 0.0]}, "scale other than 0"),
    ],
)
def test_a_bad_step_is_told(step, said):
    with pytest.raises(LacunaError, match=said) as caught:
        scale(VALUES, [step])
    assert caught.value.code == "bad-scaling"
    assert caught.value.hint


@pytest.mark.parametrize("clip", [{"minimum": -2.0, "maximum": 9.0}, {"minimum": [0.0, -1.0], "maximum": 9.0}])
def test_a_logarithm_needs_values_of_which_there_is_one(clip):
    with pytest.raises(LacunaError, match="needs a clip above -1; found -"):
        scale(VALUES, [{"type": "clip", **clip}, {"type": "log", "scale": 1.0}])


NUMBERS = st.floats(-30000, 70000, width=32)


@given(
    arrays(np.float32, (2, 5), elements=NUMBERS), st.floats(1e-4, 10), st.floats(-20, 20), st.floats(-3, 3).filter(bool)
)
def test_curves_are_those_of_their_formulas_and_finite_for_any_value(values, log_scale, offset, slope):
    chain = [
        {"type": "clip", "minimum": -0.9 / log_scale, "maximum": 65535},
        {"type": "log", "scale": log_scale},
        {"type": "logistic", "offset": offset, "scale": [slope, 1.0]},
    ]
    exact = np.log(np.clip(values.astype(np.float64), -0.9 / log_scale, 65535) * log_scale + 1)
    exact = 1 / (1 + np.exp(-(exact * np.array([[slope], [1.0]]) + offset)))
    found = scale(values, chain)
    assert found.dtype == np.float32
    # Near -0.9 the logarithm enlarges the rounding of float32 tenfold.
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Scaling: each step does what the contract says, for one number or one for each band."""

import numpy as np
import pytest

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
        ({"type": "log"}, "no known type"),
        ({"type": "clip", "minimum": 0}, "takes minimum, maximum"),
        ({"type": "z_score", "mean": [1.0, 2.0, 3.0], "std": 1.0}, "one for each of 2 bands"),
        ({"type": "min_max", "minimum": 4, "maximum": 4}, "minimum below its maximum"),
    ],
)
def test_a_bad_step_is_told(step, said):
    with pytest.raises(LacunaError, match=said) as caught:
        scale(VALUES, [step])
    assert caught.value.code == "bad-scaling"
    assert caught.value.hint

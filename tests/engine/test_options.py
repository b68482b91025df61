# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of options: what each text means, and what is refused in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine import options

# What a value of labels may be in a pair: anything without commas and without blanks around it.
KEYS = st.text(min_size=1, max_size=8).filter(lambda text: "," not in text and text == text.strip())


@pytest.mark.parametrize(
    ("read", "text", "found"),
    [
        (options.names, " water, tree cover", ["water", "tree cover"]),
        (options.values, "0, -1,none,1.5", [0, -1, "none", "1.5"]),
        (options.number, "-3.4e38", -3.4e38),
        (options.numbers, "0.5, 1,2e-3", [0.5, 1.0, 0.002]),
        (options.bands, "3, 2,nir", [3, 2, "nir"]),
        (options.bands, "B8A,-1,²", ["B8A", "-1", "²"]),
        (options.tile, "64", [64, 64]),
        (options.tile, "64, 128", [64, 128]),
        (options.pairs, "1=water, Fir = trees ,7=", {"1": "water", "Fir": "trees", "7": ""}),
        (options.pairs, "a=b=trees,==x", {"a=b": "trees", "=": "x"}),
        (options.goals, "1=water,Fir=2,a=b=-3,7=", {"1": "water", "Fir": 2, "a=b": -3, "7": ""}),
    ],
)
def test_what_a_text_means(read, text, found):
    assert read(text) == found


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (options.names, "a,,b", "between two commas"),
        (options.values, "", "between two commas"),
        (options.number, "none", "'none' is no number"),
        (options.numbers, "1,x", "'x' is no number"),
        (options.bands, "1,", "between two commas"),
        (options.tile, "large", "neither one side nor"),
        (options.tile, "1,2,3", "neither one side nor"),
        (options.pairs, "water", "'water' is not of the form VALUE=NAME"),
        (options.pairs, "=water", "not of the form"),
        (options.pairs, "", "not of the form"),
        (options.pairs, "1=a,1=b", "'1' is given twice"),
        (options.goals, "1=2,1=2", "'1' is given twice"),
    ],
)
def test_what_cannot_be_read_is_said(read, text, words):
    with pytest.raises(ValueError, match=words):
        read(text)


@given(st.dictionaries(KEYS, st.sampled_from(["water", "tree cover", ""]), min_size=1))
def test_a_value_of_labels_may_hold_any_sign_but_a_comma(wanted):
    assert options.pairs(",".join(f"{key}={goal}" for key, goal in wanted.items())) == wanted

# SPDX-License-Identifier: GPL-2.0-or-later
"""The detail path learns from labelled pixels in seconds, in every scenario, and the same from the same seed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.errors import CancelledError
from lacuna.engine.models.detail import DetailConfig
from lacuna.engine.models.window_features import count_features
from lacuna.engine.training import detail_path
from lacuna.engine.training.detail_path import train_detail
from lacuna.engine.training.samples import WINDOWS, PixelSamples

BANDS = {"optical": 2, "height": 1}
ORDER = scenarios(list(BANDS))


@pytest.fixture(autouse=True)
def brief_detail():
    """All steps, as in use."""


def session(heard, seed=0):
    modalities = [SimpleNamespace(name=name, bands=list(range(count))) for name, count in BANDS.items()]
    return SimpleNamespace(
        modalities=modalities,
        classes=["a", "b", "c"],
        seed=seed,
        reporter=heard[0],
        priors={},
        detail=DetailConfig(),
        components={},
    )


def samples(count=3000, seed=0, shift=0.0):
    """Pixels whose class lies in the first feature of either modality, far from the other features' scale."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=[0.6, 0.3, 0.1])
    features = {name: rng.normal(0, 1e3, (count, count_features(bands, WINDOWS))) for name, bands in BANDS.items()}
    features["optical"][:, 0] = labels + rng.normal(0, 0.2, count) + shift
    features["height"][:, 0] = np.abs(labels - 1) + rng.normal(0, 0.2, count) + shift
    valid = {name: np.ones(count, bool) for name in BANDS}
    return PixelSamples({name: values.astype(np.float32) for name, values in features.items()}, valid, labels)


def right(model, found, names):
    codes = model.code({name: torch.from_numpy(found.features[name]).T for name in names})
    with torch.no_grad():
        return (model.classify(codes).argmax(1).numpy() == found.labels).mean()


def test_it_learns_every_scenario(heard):
    model = train_detail(session(heard), samples(), ORDER)
    fresh = samples(seed=1)
    assert right(model, fresh, ["optical"]) > 0.9
    assert right(model, fresh, ["optical", "height"]) > 0.9
    # Height tells the middle class from the two others alone.
    assert 0.6 < right(model, fresh, ["height"]) < 0.95
    assert not model.training


def test_values_never_seen_count_as_the_nearest_that_were(heard):
    model = train_detail(session(heard), samples(), ORDER)
    far = samples(seed=1)
    far.features["optical"][:, 0] = np.where(far.labels == 2, 1e6, far.features["optical"][:, 0])
    assert right(model, far, ["optical"]) > 0.9


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_draws(heard, monkeypatch):
    monkeypatch.setattr(detail_path, "STEPS", (50, 50))
    monkeypatch.setattr(detail_path, "TAUGHT_STEPS", (50, 50))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    more = samples(200, 7)
    first, second = (train_detail(session(heard), samples(600), ORDER, more).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train_detail(session(heard, 1), samples(600), ORDER).state_dict()
    assert not torch.equal(first["out.weight"], other["out.weight"])


def test_pixels_without_a_modality_teach_the_scenarios_that_they_have(heard):
    found = samples()
    found.valid["height"][:] = False
    found.features["height"][:] = 0
    model = train_detail(session(heard), found, ORDER)
    assert right(model, found, ["optical"]) > 0.9
    assert torch.isfinite(model.enter[model.key("height")].weight).all()


def test_without_any_pixel_there_is_none(heard):
    found = samples(50)
    for valid in found.valid.values():
        valid[:] = False
    assert train_detail(session(heard), found, ORDER) is None


def test_it_can_be_stopped(heard):
    heard[0].cancelled.set()
    with pytest.raises(CancelledError):
        train_detail(session(heard), samples(200), ORDER)


def test_a_class_of_one_pixel_does_not_take_the_others(heard):
    """With nearly all pixels of one class, what is rare must not be seen everywhere."""
    rng = np.random.default_rng(0)
    found = samples(4000)
    found.labels[:] = (rng.random(4000) < 0.05).astype(int)
    found.features["optical"][:, 0] = found.labels + rng.normal(0, 0.2, 4000)
    found.labels[0] = 2
    model = train_detail(session(heard), found, ORDER)
    assert right(model, found, ["optical"]) > 0.95
    assert right(model, found, ["height"]) > 0.8


@pytest.mark.slow
def test_unlabelled_pixels_teach_what_some_modalities_can_tell(heard):
    """Which of its values tells what, twenty labels do not show for height, but many pixels without a label do."""

    def ground(count, seed):
        found, rng = samples(count, seed), np.random.default_rng(seed + 100)
        bands = found.features["optical"]
        bands[:] = found.labels[:, None] + rng.normal(0, 0.5, bands.shape)
        found.features["height"][:, 0] = found.labels + rng.normal(0, 0.3, count)
        return found

    few, many, fresh = ground(20, 3), ground(6000, 4), ground(3000, 5)
    unlabelled = PixelSamples(many.features, many.valid, np.full(6000, -1))
    alone = train_detail(session(heard), few, ORDER)
    taught = train_detail(session(heard), few, ORDER, unlabelled)
    assert right(taught, fresh, ["height"]) > right(alone, fresh, ["height"]) + 0.05


def test_the_teacher_answers_from_the_most_modalities_that_a_pixel_has(heard):
    from lacuna.engine.training.detail_path import _taught

    teacher, found = train_detail(session(heard), samples(600), ORDER), samples(200, 1)
    found.valid["height"][:50] = False
    found.valid["optical"][50:80] = False
    taught = _taught(teacher, teacher, found, ORDER)
    codes = teacher.code({name: torch.from_numpy(values).T for name, values in found.features.items()})
    parts = [(0, 50, ["optical"]), (50, 80, ["height"]), (80, 200, ["optical", "height"])]
    with torch.no_grad():
        for first, end, names in parts:
            rows = slice(first, end)
            wanted = teacher.classify({name: codes[name][rows] for name in names}).softmax(1)
            torch.testing.assert_close(taught.targets[rows], wanted, atol=1e-5, rtol=1e-4)
    assert taught.held["optical", "height"].tolist() == list(range(80, 200))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Random forests as arrays: what scikit-learn says, features whatever the tiles, and nothing of what is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry
from lacuna.engine.models.window_features import strips_of_features
from lacuna.engine.training.forest import assemble

MODALITIES = {"a": 3, "b": 1}
WINDOWS = (3, 7, 15)
CLASSES = 3


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, bands, 40, 52, generator=generator) for name, bands in MODALITIES.items()}


def features(images, names, index):
    strips = strips_of_features([images[name][index] for name in names], WINDOWS)
    return torch.cat(list(strips), 1).flatten(1).T.numpy()


@pytest.fixture(scope="module")
def grown(images):
    """Forests of scikit-learn for every scenario, on labels of the classes 0 and 2 of three."""
    labels = 2 * (images["a"][0, 0] + images["b"][0, 0] > 0).numpy().astype(int).ravel()
    return {
        names: RandomForestClassifier(20, random_state=0).fit(features(images, names, 0)[::5], labels[::5])
        for names in scenarios(list(MODALITIES))
    }


@pytest.fixture(scope="module")
def model(grown):
    return assemble(grown, MODALITIES, CLASSES)


@pytest.mark.parametrize("names", scenarios(list(MODALITIES)))
def test_shares_of_classes_are_those_of_scikit_learn(grown, model, images, names):
    found = model({name: images[name] for name in names}).exp()
    assert found.shape == (2, CLASSES, 40, 52)
    for index in range(2):
        wanted = np.zeros((40 * 52, CLASSES))
        wanted[:, [0, 2]] = grown[names].predict_proba(features(images, names, index))
        # Shares are kept in steps of 1 / 255, and none is below 0.001.
        np.testing.assert_allclose(found[index].flatten(1).T.numpy(), wanted.clip(1e-3), atol=0.5 / 255 + 1e-6)


def test_it_is_built_anew_from_its_configuration(model, images):
    with torch.device("meta"):
        empty = registry.build("forest", model.config(), MODALITIES, CLASSES)
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty(images), model(images))


@given(top=st.integers(0, 9), left=st.integers(0, 20), height=st.integers(1, 30), width=st.integers(1, 30))
def test_a_pixel_is_classified_alike_in_every_tile_that_shows_its_surroundings(model, images, top, left, height, width):
    edge = model.margin
    padded = {name: torch.nn.functional.pad(image[:1], (edge,) * 4) for name, image in images.items()}
    rows, columns = slice(top, top + height + 2 * edge), slice(left, left + width + 2 * edge)
    piece = model({name: image[..., rows, columns] for name, image in padded.items()})[..., edge:-edge, edge:-edge]
    whole = model({name: image[:1] for name, image in images.items()})
    wanted = whole[..., top : top + height, left : left + width]
    inner = piece[..., : wanted.shape[-2], : wanted.shape[-1]]
    # Means of windows differ in the last bit between sizes of images, which may move a pixel over a threshold.
    assert (inner.argmax(1) == wanted.argmax(1)).float().mean() > 0.99


def test_features_are_bands_then_means_and_deviations():
    image = torch.arange(25.0).reshape(1, 5, 5)
    (found,) = strips_of_features([image], (3,))
    inner = np.arange(25.0).reshape(5, 5)[1:4, 1:4]
    assert found[:, 2, 2].tolist() == pytest.approx([12.0, inner.mean(), inner.std()])
    assert found[1, 0, 0] == pytest.approx((0 + 1 + 5 + 6) / 9), "what lies beyond the image counts as 0"


def test_a_scenario_without_trees_is_refused(grown, images):
    part = assemble({("a",): grown["a",]}, MODALITIES, CLASSES)
    with pytest.raises(LacunaError) as caught:
        part({"b": images["b"]})
    assert caught.value.code == "unsupported-scenario"


@pytest.mark.parametrize("ask", ["losses", "latent", "settings", "preset_config"])
def test_it_is_no_network(model, images, ask):
    arguments = {"losses": (images, torch.zeros(2, 40, 52)), "latent": (images,)}.get(ask, ())
    with pytest.raises(LacunaError) as caught:
        getattr(model, ask)(*arguments)
    assert caught.value.code == "not-trainable"


@pytest.mark.parametrize(
    "config",
    [{"windows": [4]}, {"windows": []}, {"trees": 0}, {"nodes": {"a": 5}}, {"nodes": {"z": 5}, "depths": {"z": 2}}],
)
def test_bad_configurations_are_refused(config):
    with pytest.raises(LacunaError) as caught:
        registry.build("forest", config, MODALITIES, CLASSES)
    assert caught.value.code == "bad-config"

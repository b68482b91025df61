# SPDX-License-Identifier: GPL-2.0-or-later
"""The network of Dynamic World with its published weights computes what the published SavedModel computed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lacuna.engine.models.dynamic_world_net import REACH, DynamicWorldNet

WEIGHTS = Path(__file__).parents[3] / "resources" / "encoders" / "dynamic_world.safetensors"
REFERENCE = Path(__file__).parents[2] / "data" / "reference" / "dynamic_world.npz"
STEPS = ("stem", "down", "block1", "block2", "skip", "decoder", "up", "features")


@pytest.fixture(scope="module")
def network():
    """The network with the published weights."""
    network = DynamicWorldNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


@pytest.fixture(scope="module")
def reference():
    """What TensorFlow computed: an image `a` of even size, and two images `b` of odd size."""
    with np.load(REFERENCE) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored if not name.endswith("_raw")}


@pytest.mark.parametrize("image", ["a", "b"])
def test_every_step_is_that_of_the_published_network(network, reference, image):
    with torch.no_grad():
        maps = network.features(reference[f"{image}_input"])
    assert tuple(maps) == STEPS
    for step, found in maps.items():
        wanted = reference[f"{image}_{step}"]
        torch.testing.assert_close(found[:, ::4, ::3, ::3], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("image", ["a", "b"])
def test_logits_are_those_of_the_published_network(network, reference, image):
    with torch.no_grad():
        found = network(reference[f"{image}_input"])
    torch.testing.assert_close(found, reference[f"{image}_logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (7, 1)])
def test_the_smallest_images_have_logits_too(network, size):
    with torch.no_grad():
        logits = network(torch.rand(1, 9, *size))
    assert logits.shape == (1, 9, *size) and logits.isfinite().all()


def test_an_output_depends_on_no_input_beyond_the_reach(network):
    image = torch.rand(1, 9, 80, 80, requires_grad=True)
    network(image)[0, :, 40, 41].sum().backward()
    rows, columns = image.grad.abs().sum((0, 1)).nonzero().unbind(1)
    distances = torch.stack([(rows - 40).abs(), (columns - 41).abs()])
    assert 2 < int(distances.max()) <= REACH


def test_other_numbers_of_bands_and_classes(network):
    other = DynamicWorldNet(bands=4, classes=3)
    assert other(torch.rand(2, 4, 6, 8)).shape == (2, 3, 6, 8)
    differing = {name for name, value in other.state_dict().items() if value.shape != network.state_dict()[name].shape}
    assert differing == {"stem.weight", "head.weight", "head.bias"}

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the models share: the same random numbers for every test, and float64 as the judge of float32.

The kernels of float32 differ by processor and by version of torch, and a network with random weights can turn 1e-7
into 1e-1. So results are stored in float64, where all kernels agree to 1e-9, and float32 has to agree with float64 as
well as float32 can: the bound is measured on the very network and images.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from lacuna.engine.imports.encoder_file import load_encoder

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
# Half a unit in the last place of float32: what one rounding can change, relatively.
UNIT = 2.0**-24
DRAWS = 8
# Errors of float32 were 0.1 to 3.0 times the largest of eight draws: 24 networks and scenarios, under five sets of
# kernels. A draw rounds once each operation, which for a sum over many channels is somewhat less than what happens.
ALLOWANCE = 10.0
# Twenty times what five sets of kernels were seen to differ by at most in float64, relative to logits of about 4.
SAME = 1e-9


@pytest.fixture(autouse=True)
def seeded():
    """Fix torch's global generator, from which weights and dropout are drawn."""
    torch.manual_seed(0)


class Rounding(TorchFunctionMode):
    """Multiplies each float64 result of torch by 1 + UNIT u with u drawn from -1 to 1, as if stored in float32."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, torch.Tensor) or result.dtype != torch.float64:
            return result
        drawn = torch.rand(result.shape, generator=self.generator, dtype=torch.float64)
        return result * (1 + UNIT * (2 * drawn - 1))


def bounds(compute, exact):
    """Return by how much float32 may differ from each of `exact`, tensors by name that `compute` makes in float64."""
    largest = dict.fromkeys(exact, 0.0)
    for seed in range(DRAWS):
        with Rounding(seed), torch.no_grad():
            found = compute()
        for name, value in found.items():
            largest[name] = max(largest[name], float((value - exact[name]).abs().max()))
    return {name: ALLOWANCE * value for name, value in largest.items()}


def check_within(found, exact, allowed):
    """Assert that tensors in float32 differ from `exact`, those in float64, by no more than `allowed`, all by name."""
    for name, value in exact.items():
        assert found[name].dtype == torch.float32 and value.dtype == torch.float64
        # What differs by more than the values themselves do would prove nothing.
        assert 0 < allowed[name] < float(value.std())
        difference = float((found[name] - value).abs().max())
        said = f"{name}: float32 differs from float64 by {difference:.1e}, roundings explain {allowed[name]:.1e}"
        assert difference <= allowed[name], said


@pytest.fixture
def roundings_explain():
    """A function that asserts that each of `found`, in float32, is what `compute` makes in float64, but for roundings.

    All are tensors by name. What others found in float32, on a machine of theirs, is judged the same way.
    """

    def check(compute, *found):
        with torch.no_grad():
            exact = compute()
        allowed = bounds(compute, exact)
        for item in found:
            check_within(item, exact, allowed)

    return check


@pytest.fixture
def agrees_with_double(roundings_explain):
    """A function that runs a network in float64 and in float32, asserts that they agree, and returns the former."""

    def check(model, images):
        judge, given = copy.deepcopy(model).double(), {name: image.double() for name, image in images.items()}
        with torch.no_grad():
            found, exact = model(images), judge(given)
        roundings_explain(lambda: {"logits": judge(given)}, {"logits": found})
        return exact

    return check


@pytest.fixture
def as_stored(agrees_with_double):
    """A function that compares the logits of a network with those of a case in tests/data/logits_FILE.npz.

    Every fourth row and column is stored, in float64. With LACUNA_STORE_LOGITS=1 they are stored anew instead.
    """

    def check(file, case, model, images):
        logits = agrees_with_double(model, images)[..., ::4, ::4]
        path = DATA / f"logits_{file}.npz"
        if os.environ.get("LACUNA_STORE_LOGITS"):
            np.savez_compressed(path, **{**(np.load(path) if path.exists() else {}), case: logits.numpy()})
        torch.testing.assert_close(logits, torch.from_numpy(np.load(path)[case]), rtol=SAME, atol=SAME)

    return check


@pytest.fixture(scope="session")
def published_numbers():
    """A function that returns the arrays that a published implementation gave."""
    return lambda name: dict(np.load(DATA / "reference" / f"{name}.npz"))


@pytest.fixture(scope="session")
def published_weights():
    """A function that returns the published weights of a network as they come with Lacuna, in float32."""

    def load(name):
        return load_encoder(str(ROOT / "resources" / "encoders" / f"{name}.safetensors"))[1]

    return load

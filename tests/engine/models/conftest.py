# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the models share: the same random numbers for every test."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Fix torch's global generator, from which weights and dropout are drawn."""
    torch.manual_seed(0)

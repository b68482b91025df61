# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of checkpoints share: a card with everything in it, and safetensors files made byte by byte."""

from __future__ import annotations

import copy
import json
import struct

import pytest

CARD = {
    "architecture": {"name": "sgma", "config": {"encoder": "small"}},
    "modalities": [
        {
            "name": "optical",
            "bands": ["B02", "B03", "B04"],
            "units": "reflectance",
            "scaling": [{"type": "z_score", "mean": [1.0, 2.0, 3.0], "std": 4.0}],
            "nodata": 0.0,
            "statistics": {"minimum": [0.0, 0.0, 0.0], "maximum": [9.0, 9.0, 9.0], "p99": [8.0, 8.0, 8.0]},
            "resolution": [10.0, 10.0],
        },
        {"name": "radar", "bands": ["VV", "VH"], "resampling": "nearest", "required": True},
        {
            "name": "elevation",
            "bands": ["height"],
            "scaling": [
                {"type": "clip", "minimum": 0, "maximum": 100},
                {"type": "offset_scale", "offset": -1, "scale": 0.02},
            ],
            "resampling": "cubic",
        },
    ],
    "classes": [
        {"value": 1, "name": "bare soil", "color": "#a05a2c"},
        {"value": 7, "name": "eau (été)", "color": "#0064c8"},
    ],
    "reference": "radar",
    "name": "A test: 1",
    "description": "Nothing to rely on",
    "resolution": [5.0, 20.0],
    "tile": [64, 96],
    "margin": 16,
    "stride": 32,
    "scenarios": [["radar"], ["optical", "radar"], ["radar", "elevation"]],
    "scores": [{"available": ["radar"], "miou": 0.4}, {"available": ["radar", "elevation"], "miou": 0.6, "f1": 0.7}],
    "scores_on": "a held-out half",
    "calibration": [{"available": ["radar"], "temperature": 1.5}],
    "training": {"epochs": 3},
    "licence": "CC-BY-4.0",
    "credits": "Somebody",
    "parents": ["00ff"],
    "created": "2026-11-21T00:00:00Z",
    "schema": 1,
}


@pytest.fixture
def card_values():
    """The JSON values of a card that uses every field, for a test to change."""
    return copy.deepcopy(CARD)


@pytest.fixture
def write_header(tmp_path):
    """A function that writes a safetensors file from a header (an object or raw bytes), a body and a stated length."""

    def write(header, body=b"", length=None, name="file.safetensors"):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
        return str(path)

    return write

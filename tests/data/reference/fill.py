# SPDX-License-Identifier: GPL-2.0-or-later
"""Fill a model's tensors with fixed numbers, so that two codes can be compared without shipping weights.

`fill(name, shape)` gives the same float32 array on every machine. `name` is the tensor's name in the
REFERENCE checkpoint (the keys of the *_names.json files beside this one), never your own name for it.
"""

import math
import zlib

import numpy as np


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the fixed float32 values of the reference tensor `name`, of shape `shape`."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    count = math.prod(shape)
    wave = np.sin(0.37 * np.arange(count, dtype=np.float64) + zlib.crc32(name.encode()) % 997)
    if name.endswith("running_var"):
        values = 1.0 + 0.5 * wave
    elif len(shape) == 1 and name.endswith("weight"):
        values = 1.0 + 0.1 * wave
    elif len(shape) == 1:
        values = 0.1 * wave
    else:
        values = wave * (2.0 / math.sqrt(count / shape[0]))
    return values.reshape(shape).astype(np.float32)


def image(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the fixed float32 input image number `seed`, of shape `shape` (B, C, H, W)."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)

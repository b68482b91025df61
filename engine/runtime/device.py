# SPDX-License-Identifier: GPL-2.0-or-later
"""The device a job runs on and the precision it computes in: chosen once, and said."""

from __future__ import annotations

import sys

import torch

from ..errors import LacunaError
from ..events import Reporter

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(asked: str, reporter: Reporter) -> torch.device:
    """Return the device for `asked` (auto, cpu, cuda or cuda:N), and say which it is.

    Raises:
        LacunaError: `no-cuda`, when CUDA or a card of that number is asked for and not there.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(asked)
    if device.type == "cuda":
        _check_cuda(asked, device)
    reporter.info(f"Computing on {describe_device(device)}.")
    return device


def describe_device(device: torch.device) -> str:
    """Return the name of `device` in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    threads = torch.get_num_threads()
    return f"the CPU ({threads} thread{'s' if threads > 1 else ''})"


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Return the most memory in bytes that this process has had: `system`, None on Windows, and `device`, on a GPU.

    The engine runs one job a process, so that this is what the job took.
    """
    found: dict[str, int | None] = {"system": None, "device": None}
    if sys.platform != "win32":
        import resource

        # Linux counts in KiB, macOS in bytes.
        found["system"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if device.type == "cuda":
        found["device"] = torch.cuda.max_memory_reserved(device)
    return found


def choose_precision(asked: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16 for `asked`: `auto` is bf16 where a GPU has it, else fp32.

    Raises:
        LacunaError: `bad-precision`, for half precision on a CPU, which is slower there and less exact.
    """
    if asked == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if device.type == "cpu" and asked != "fp32":
        raise LacunaError(
            "bad-precision", f"Precision {asked} was asked for on the CPU.", "Choose fp32 or auto, or compute on a GPU."
        )
    return asked


def dtype_of(precision: str) -> torch.dtype:
    """Return torch's type for fp32, bf16 or fp16."""
    return _DTYPES[precision]


def _check_cuda(asked: str, device: torch.device) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count > (device.index or 0):
        return
    found = f"{count} CUDA devices were found" if count else "no CUDA device was found"
    build = "" if torch.version.cuda else " (the installed torch is a build for the CPU)"
    raise LacunaError(
        "no-cuda",
        f"Device {asked} was asked for, but {found}{build}.",
        "Choose device auto or cpu, or install a CUDA build of torch and the driver of the graphics card.",
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a job: the right function for its kind, loaded only now, and every exception turned into words."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

from .checkpoint.card_file import read_card
from .errors import CancelledError, LacunaError, disk_error
from .events import Reporter
from .jobs import EvaluateJob, FinetuneJob, Job, ScenariosJob, SegmentJob, TrainJob
from .version import PACKAGES, __version__

# By kind of job: the module and its function, called with the job and the reporter.
_WORK = {
    "segment": (".inference.pipeline", "segment"),
    "train": (".training.train", "train"),
    "finetune": (".finetuning.finetune", "finetune"),
    "scenarios": (".finetuning.scenarios_job", "measure_scenarios"),
    "import": (".imports.importers", "import_weights"),
    "evaluate": (".evaluation.evaluate", "evaluate"),
    "merge": (".finetuning.merge", "merge"),
    "fetch": (".catalogue.fetch", "fetch_job"),
    "catalogue": (".catalogue.publish", "publish"),
}
_PACKAGE = __name__.rpartition(".")[0]
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUDA_ERROR_OUT_OF_MEMORY")


def run(job: Job, reporter: Reporter) -> dict[str, Any]:
    """Do `job` and return its result.

    Raises:
        LacunaError: whatever went wrong, in words; also `disk-full`, `not-permitted`, `file-error`, `out-of-memory`,
            `device-failed`, `engine-incomplete` and, with the traceback in a file that the message names, `internal`.
        CancelledError: the reporter was told to stop.
    """
    try:
        _check(job)
        work = _load(job.kind)
        reporter.check()
        return work(job, reporter)
    except (LacunaError, CancelledError):
        raise
    except Exception as problem:
        if reporter.cancelled.is_set():
            raise CancelledError from problem
        raise explain(problem, job) from problem


def explain(problem: Exception, job: Job) -> LacunaError:
    """Return what an analyst is told of an exception that the engine did not foresee while it ran `job`."""
    torch = sys.modules.get("torch")
    if isinstance(problem, ImportError) and not (problem.name or "").startswith(_PACKAGE):
        return _incomplete(problem)
    if isinstance(problem, MemoryError) or (torch and isinstance(problem, torch.OutOfMemoryError)):
        return _out_of_memory(problem, job)
    if isinstance(problem, OSError):
        written = job.report or job.checkpoint if isinstance(job, EvaluateJob) else job.output
        return disk_error(problem, str(problem.filename or written))
    if isinstance(problem, RuntimeError) and any(words in str(problem) for words in _NO_MEMORY):
        return _out_of_memory(problem, job)
    if isinstance(problem, RuntimeError) and "CUDA" in str(problem):
        return LacunaError(
            "device-failed",
            f"The graphics card failed: {_first_line(problem)}.",
            "Run the job again; if it fails again, update the driver or choose the device cpu.",
        )
    return _internal(problem)


def _check(job: Job) -> None:
    """Raise LacunaError for what the card alone shows to be wrong, before seconds go into loading torch."""
    if isinstance(job, SegmentJob):
        read_card(job.checkpoint).check_request(job.modalities, job.reference)
    elif isinstance(job, (EvaluateJob, FinetuneJob, ScenariosJob)):
        card = read_card(job.checkpoint)
        if job.manifest is None:
            card.check_request(job.modalities)


def _load(kind: str) -> Callable[[Job, Reporter], dict[str, Any]]:
    """Return the function for jobs of a `kind`, or raise `engine-incomplete` if a library does not load."""
    module, name = _WORK[kind]
    try:
        return getattr(importlib.import_module(module, _PACKAGE), name)
    except OSError as problem:
        # A library whose own libraries are missing: torch on Windows without Microsoft's runtime, for one.
        raise _incomplete(ImportError(str(problem))) from problem


def _incomplete(problem: ImportError) -> LacunaError:
    """Return the error for a package that the interpreter lacks or cannot load."""
    package = (problem.name or "").partition(".")[0]
    python = f"The engine's Python, {sys.executable} ({platform.python_version()}),"
    missing = [called for name, called in PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        text = f"{python} lacks {', '.join(missing)}."
        install = f"Install what is missing: {sys.executable} -m pip install {' '.join(missing)}"
    else:
        text = f"{python} cannot load {package or 'a package'}: {_first_line(problem)}."
        install = f"Reinstall {package or 'that package'} in it"
    hint = f"{install}; or choose another Python (in QGIS under Settings > Options > Lacuna, else by LACUNA_PYTHON)."
    return LacunaError("engine-incomplete", text, hint)


def _out_of_memory(problem: Exception, job: Job) -> LacunaError:
    """Return the error for memory that ran out, with the settings that need less of it."""
    asked = ", ".join(f"{name} {getattr(job, name)}" for name in ("tile", "batch_size", "device") if hasattr(job, name))
    hint = "Close other programs, or use a computer with more memory."
    if isinstance(job, (SegmentJob, EvaluateJob, ScenariosJob)):
        hint = "Take a smaller batch or tile, close other programs, or choose the device cpu."
    elif isinstance(job, TrainJob):
        hint = "Take a smaller encoder, batch or crop (--encoder, --config), or close other programs."
    elif isinstance(job, FinetuneJob):
        hint = "Take a smaller batch or crop (--config), train only the head (--method head), or close other programs."
    return LacunaError("out-of-memory", f"Memory ran out ({asked or job.kind}): {_first_line(problem)}.", hint)


def _internal(problem: Exception) -> LacunaError:
    """Return the error for what should never happen; its traceback goes to a file."""
    text = f"Lacuna failed unexpectedly: {type(problem).__name__}: {_first_line(problem)}."
    try:
        handle, path = tempfile.mkstemp(prefix="lacuna-error-", suffix=".log", text=True)
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as log:
            log.write(f"Lacuna {__version__}, Python {sys.version}, {platform.platform()}\n")
            log.writelines(traceback.format_exception(type(problem), problem, problem.__traceback__))
    except OSError as failure:
        return LacunaError("internal", text, f"No report could be written: {failure.strerror}.")
    return LacunaError("internal", text, f"Please report this with the file {path}.")


def _first_line(problem: Exception) -> str:
    """Return the first line of what `problem` says, cut to a readable length, without its full stop."""
    lines = str(problem).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(problem).__name__

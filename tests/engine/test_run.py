# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a job: whatever an engine's function raises becomes words that say what to do."""

from __future__ import annotations

import errno
import os
import re
import sys
import types

import pytest
import torch

from lacuna.engine import events
from lacuna.engine import run as running
from lacuna.engine.errors import CancelledError, LacunaError, UsageError
from lacuna.engine.events import Reporter, silent
from lacuna.engine.jobs import EvaluateJob, SegmentJob, SourceSpec, TrainJob

JOB = TrainJob("m.toml", "sgma", os.path.join("results", "model.safetensors"))


@pytest.fixture
def work(monkeypatch):
    """A function that puts another in the place of training, in a module of its own."""

    def put(function):
        module = types.ModuleType("lacuna.engine.stand_in")
        module.train = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(running._WORK, "train", (".stand_in", "train"))

    return put


def failing(problem):
    def function(job, reporter):
        raise problem

    return function


def test_the_result_and_the_events_pass_through(work):
    said = []
    work(lambda job, reporter: reporter.info(job.output) or {"checkpoint": job.output})
    assert running.run(JOB, Reporter(said.append)) == {"checkpoint": JOB.output}
    assert said == [events.message("info", JOB.output)]


@pytest.mark.parametrize("problem", [LacunaError("a", "b"), UsageError("a", "b"), CancelledError()])
def test_what_is_in_words_already_stays_as_it_is(work, problem):
    work(failing(problem))
    with pytest.raises(type(problem)) as caught:
        running.run(JOB, silent())
    assert caught.value is problem


CASES = {
    "disk": (OSError(errno.ENOSPC, "No space left on device"), "disk-full", os.path.abspath("results")),
    "quota": (OSError(errno.EDQUOT, "Quota exceeded", "a.tif"), "disk-full", os.path.abspath(".")),
    "disk in words": (OSError("write failed: No space left on device"), "disk-full", os.path.abspath("results")),
    "rights": (PermissionError(errno.EACCES, "Permission denied", "b.tif"), "not-permitted", "b.tif"),
    "gone": (FileNotFoundError(errno.ENOENT, "No such file", "c.tif"), "file-error", "c.tif"),
    "memory": (MemoryError(), "out-of-memory", "smaller"),
    "memory of a GPU": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out-of-memory", "smaller"),
    "memory of the CPU": (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), "out-of-memory", "smaller"),
    "a GPU": (RuntimeError("CUDA error: an illegal memory access"), "device-failed", "driver"),
    "broken": (ImportError("DLL load failed", name="torch._C"), "engine-incomplete", "DLL load failed"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_engine_did_not_foresee_is_put_into_words(work, case):
    problem, code, word = CASES[case]
    work(failing(problem))
    with pytest.raises(LacunaError) as caught:
        running.run(JOB, silent())
    assert caught.value.code == code
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    if code == "engine-incomplete":
        assert sys.executable in caught.value.text


def test_all_that_an_interpreter_lacks_is_named_with_the_command_that_installs_it(work, monkeypatch):
    found = running.importlib.util.find_spec
    lacking = ("torch", "rasterio")
    monkeypatch.setattr(running.importlib.util, "find_spec", lambda name: None if name in lacking else found(name))
    work(failing(ModuleNotFoundError("No module named 'torch'", name="torch")))
    with pytest.raises(LacunaError, match=r"lacks torch, rasterio\.") as caught:
        running.run(JOB, silent())
    assert caught.value.code == "engine-incomplete"
    assert f"{sys.executable} -m pip install torch rasterio;" in caught.value.hint


def test_memory_that_runs_out_in_segment_names_the_settings_that_need_less():
    job = SegmentJob("c", {"a": SourceSpec("a")}, "o.tif", tile=[512, 512], batch_size=8)
    problem = running.explain(MemoryError("too much"), job)
    assert "batch_size 8" in problem.text
    assert "tile [512, 512]" in problem.text
    assert "smaller batch or tile" in problem.hint


@pytest.mark.parametrize(("report", "named"), [(None, "c.safetensors"), ("r.html", "r.html")])
def test_an_evaluation_that_fails_names_what_it_was_writing(report, named):
    job = EvaluateJob("c.safetensors", manifest="m.toml", report=report, tile=[512, 512])
    assert named in running.explain(OSError(errno.ENOSPC, "No space left on device"), job).text
    problem = running.explain(MemoryError("too much"), job)
    assert "tile [512, 512]" in problem.text
    assert "smaller batch or tile" in problem.hint


def test_a_library_that_does_not_load_is_said(monkeypatch):
    def fail(name, package):
        raise OSError("[WinError 126] error loading c10.dll")

    monkeypatch.setattr(running.importlib, "import_module", fail)
    with pytest.raises(LacunaError, match=r"c10\.dll") as caught:
        running.run(JOB, silent())
    assert caught.value.code == "engine-incomplete"


@pytest.mark.parametrize(
    "problem", [KeyError("a\nb"), ZeroDivisionError(), ImportError("x", name="lacuna.engine.none")]
)
def test_the_unexpected_is_one_line_and_a_file_with_the_traceback(work, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(running.tempfile, "tempdir", str(tmp_path))
    work(failing(problem))
    with pytest.raises(LacunaError) as caught:
        running.run(JOB, silent())
    assert caught.value.code == "internal"
    assert type(problem).__name__ in caught.value.text
    assert "\n" not in str(caught.value)
    path = re.search(r"file (.*\.log)", caught.value.hint).group(1)
    with open(path) as log:
        text = log.read()
    assert "Traceback" in text
    assert "in failing" not in text.splitlines()[0]
    assert type(problem).__name__ in text


def test_without_room_for_the_file_the_line_is_still_said(work, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(running.tempfile, "mkstemp", full)
    work(failing(KeyError("a")))
    with pytest.raises(LacunaError, match="No report could be written") as caught:
        running.run(JOB, silent())
    assert caught.value.code == "internal"


def test_what_breaks_after_a_cancel_is_a_cancel(work):
    reporter = silent()

    def function(job, reporter):
        reporter.cancelled.set()
        raise RuntimeError("a thread was cut off")

    work(function)
    with pytest.raises(CancelledError):
        running.run(JOB, reporter)


def test_a_job_that_is_cancelled_beforehand_does_not_start(work):
    reporter = silent()
    reporter.cancelled.set()
    work(lambda job, reporter: pytest.fail("it started"))
    with pytest.raises(CancelledError):
        running.run(JOB, reporter)

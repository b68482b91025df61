# SPDX-License-Identifier: GPL-2.0-or-later
"""The worker: a real process, spoken to as the plugin does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lacuna.engine.jobs import SegmentJob, SourceSpec, TrainJob, to_json

# A worker in which training is the function whose source follows.
STAND_IN = """
import sys, types
from lacuna.engine import run, worker
module = types.ModuleType("lacuna.engine.stand_in")
exec(sys.argv[1], module.__dict__)
sys.modules[module.__name__] = module
run._WORK["train"] = (".stand_in", "train")
sys.exit(worker.main())
"""
WAITING = """
import os, time
def train(job, reporter):
    open(job.output, "w").close()
    reporter.info("started")
    try:
        while True:
            reporter.check()
            time.sleep(0.02)
    finally:
        os.remove(job.output)
"""
TALKING = """
import os, sys
def train(job, reporter):
    print("from Python")
    os.write(1, b"from C\\n")
    os.system("echo from a child")
    print(repr(sys.stdin.read()), file=sys.stderr)
    return {"checkpoint": "caf\\u00e9"}
"""
DEAF = """
import time
def train(job, reporter):
    reporter.info("started")
    reporter.cancelled.wait()
    print("asked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def start(tmp_path):
    """A function that starts a worker, whole or with a stand-in for training."""
    processes = []

    def begin(source=None):
        command = [sys.executable, "-m", "lacuna.engine", "worker"]
        if source is not None:
            command = [sys.executable, "-c", STAND_IN, source]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        processes.append(subprocess.Popen(command, text=True, cwd=tmp_path, **pipes))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                stream.close()


def line(output="o"):
    return to_json(TrainJob("m", "sgma", output)) + "\n"


def events_of(text):
    return [json.loads(item) for item in text.splitlines()]


def begin_waiting(start):
    process = start(WAITING)
    process.stdin.write(line())
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["text"] == "started"
    return process


def test_a_job_that_fails_is_an_event_a_line_and_status_1(start):
    job = SegmentJob("none.safetensors", {"a": SourceSpec("a.tif")}, "o.tif")
    process = start()
    out, err = process.communicate(to_json(job) + "\n", timeout=60)
    assert process.returncode == 1
    (event,) = events_of(out)
    assert (event["event"], event["code"]) == ("error", "file-missing")
    assert event["text"] in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "\n\n", "{}\n", "nonsense\n", '{"job": "train"}\n', '{"cancel": true}\n'])
def test_what_is_no_job_is_status_2(start, text):
    process = start()
    out, _ = process.communicate(text, timeout=60)
    assert process.returncode == 2
    assert events_of(out)[-1]["code"] == "bad-job"


def test_an_unknown_modality_is_status_2(start, make_checkpoint):
    process = start()
    job = SegmentJob(make_checkpoint(), {"thermal": SourceSpec("a.tif")}, "o.tif")
    out, _ = process.communicate(to_json(job), timeout=60)
    assert process.returncode == 2
    assert events_of(out)[-1]["code"] == "unknown-modality"


def test_only_events_reach_standard_output_and_the_job_cannot_read_the_input(start):
    process = start(TALKING)
    out, err = process.communicate(line(), timeout=60)
    assert process.returncode == 0
    assert out.isascii()
    assert events_of(out) == [{"event": "result", "checkpoint": "café"}]
    assert set(err.splitlines()) == {"from Python", "from C", "from a child", "''"}


def test_a_line_cancels_and_the_job_cleans_up(start, tmp_path):
    process = begin_waiting(start)
    assert os.listdir(tmp_path) == ["o"]
    process.stdin.write('noise\n{"cancel": false}\n[]\n{"cancel": true}\n')
    process.stdin.flush()
    assert process.wait(timeout=60) == 130
    assert os.listdir(tmp_path) == []


def test_a_signal_cancels(start, tmp_path):
    process = begin_waiting(start)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="there the end of the input is all there is to see")
def test_the_end_of_the_input_alone_does_not_cancel(start):
    process = begin_waiting(start)
    process.stdin.close()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1.2)


@pytest.mark.skipif(os.name == "nt", reason="needs a parent that can be killed alone")
def test_a_worker_whose_parent_dies_stops(tmp_path):
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]], stdin=-1, stdout=-1, text=True)\n"
        "child.stdin.write(sys.argv[3]); child.stdin.flush(); child.stdout.readline()\n"
        "print(child.pid, flush=True); child.wait()\n"
    )
    command = [sys.executable, "-c", parent, STAND_IN, WAITING, line()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        child = int(process.stdout.readline())
        assert os.listdir(tmp_path) == ["o"]
        process.kill()
    deadline = time.monotonic() + 60
    while os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        assert os.listdir(tmp_path) == []
    finally:
        if os.listdir(tmp_path):
            os.kill(child, signal.SIGKILL)


def test_a_second_request_ends_a_job_that_does_not_look(start):
    process = start(DEAF)
    process.stdin.write(line())
    process.stdin.flush()
    process.stdout.readline()
    process.stdin.write('{"cancel": true}\n')
    process.stdin.flush()
    assert process.stderr.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130


KEEPING = """
import time
from lacuna.engine.errors import CancelledError
def train(job, reporter):
    reporter.info("started")
    while not reporter.cancelled.is_set():
        time.sleep(0.02)
    if reporter.keep_best.is_set():
        reporter.cancelled.clear()
        reporter.info("keeping")
        deadline = time.monotonic() + float(job.output)
        while time.monotonic() < deadline:
            reporter.check()
            time.sleep(0.02)
        return {"checkpoint": "best"}
    raise CancelledError
"""


@pytest.mark.parametrize(("seconds", "again", "status"), [("0.1", False, 0), ("60", True, 130)])
def test_a_training_may_be_asked_to_keep_the_best_and_then_still_be_cancelled(start, seconds, again, status):
    process = start(KEEPING)
    process.stdin.write(line(seconds))
    process.stdin.flush()
    process.stdout.readline()
    process.stdin.write('{"cancel": true, "keep_best": true}\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["text"] == "keeping"
    if again:
        process.stdin.write('{"cancel": true}\n')
        process.stdin.flush()
    assert process.wait(timeout=60) == status

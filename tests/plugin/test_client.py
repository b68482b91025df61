# SPDX-License-Identifier: GPL-2.0-or-later
"""The client of the engine process, against small real processes that speak the protocol, or die of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from lacuna.engine.errors import CancelledError, LacunaError
from lacuna.host.client import EngineClient, explain_status

PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


def never() -> bool:
    return False


def after(seconds: float):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def run(engine, job, body, cancelled=never, enough=None):
    events = []
    client = EngineClient(PYTHON, engine(body))
    try:
        return client.run(job, events.append, cancelled, enough), events
    finally:
        assert client.process.poll() is not None


def test_events_arrive_in_order_and_the_result_is_returned(engine, job):
    result, events = run(
        engine,
        job,
        "say(event='progress', done=1, total=2, unit='tiles')\n"
        "say(event='message', level='warning', text='café')\n"
        "say(event='result', outputs={'classes': job['output']})\n",
    )
    assert [event["event"] for event in events] == ["progress", "message"]
    assert events[1]["text"] == "café"
    assert result["outputs"]["classes"] == job.output


def test_what_libraries_print_is_ignored(engine, job):
    result, events = run(
        engine,
        job,
        "print('Downloading... 3 %')\nprint('{\"not\": \"an event\"}')\nprint('[1, 2')\n"
        "sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush()\nsay(event='result')\n",
    )
    assert (result, events) == ({"event": "result"}, [])


def test_much_on_standard_error_does_not_block(engine, job):
    result, _ = run(
        engine,
        job,
        "for _ in range(20000): print('y' * 99, file=sys.stderr)\nsay(event='result')\n",
    )
    assert result == {"event": "result"}


def test_an_error_event_becomes_the_same_error(engine, job):
    with pytest.raises(LacunaError) as caught:
        run(engine, job, "say(event='error', code='file-missing', text='No a.tif.', hint='Look.')\nsys.exit(1)\n")
    assert (caught.value.code, caught.value.text, caught.value.hint) == ("file-missing", "No a.tif.", "Look.")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)\n", "memory ran out"),
        ("os.kill(os.getpid(), signal.SIGSEGV)\n", "SIGSEGV"),
        ("raise RuntimeError('libcudnn is gone')\n", "libcudnn is gone"),
        ("sys.exit(0)\n", "exit status 0"),
    ],
)
def test_a_dying_engine_is_explained(engine, job, body, words):
    with pytest.raises(LacunaError) as caught:
        run(engine, job, "say(event='progress', done=1, total=2, unit='tiles')\n" + body)
    assert caught.value.code == "engine-died"
    assert words in caught.value.text
    assert caught.value.hint


def test_an_engine_that_dies_before_it_reads_the_job(job, tmp_path):
    script = tmp_path / "engine.py"
    script.write_text("import sys\nsys.exit('broken')\n")
    with pytest.raises(LacunaError, match="broken"):
        EngineClient(PYTHON, [str(script)]).run(job, print, never)


def test_an_interpreter_that_does_not_start(job, tmp_path):
    with pytest.raises(LacunaError) as caught:
        EngineClient(str(tmp_path / "no-python")).run(job, print, never)
    assert caught.value.code == "engine-missing"


PARTS = (
    "Path(job['output'] + '.part').mkdir()\n"
    "(Path(job['output'] + '.part') / 'strip-000001.tif').write_text('half')\n"
    "Path(job['confidence'] + '.part').write_text('half')\n"
    "say(event='progress', done=1, total=2, unit='tiles')\n"
)


@pytest.mark.parametrize(
    "body",
    [
        "sys.stdin.readline()\nsys.exit(130)\n",
        "time.sleep(60)\n",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)\n",
    ],
    ids=["obeys", "does not listen", "ignores even SIGTERM"],
)
def test_cancel_ends_the_process_within_three_seconds_and_leaves_no_file(engine, job, tmp_path, body):
    cancelled = after(0.5)
    with pytest.raises(CancelledError):
        run(engine, job, PARTS + body, cancelled)
    start = time.monotonic()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.py"]
    assert time.monotonic() - start < 1


def test_cancel_takes_less_than_three_seconds_even_from_an_engine_that_refuses(engine, job):
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)\n"
    asked = time.monotonic() + 0.5
    with pytest.raises(CancelledError):
        run(engine, job, body, lambda: time.monotonic() > asked)
    assert time.monotonic() - asked < 3


def test_a_cancelled_run_names_of_outputs_with_brackets(engine, job, tmp_path):
    job.output = str(tmp_path / "classes [1].tif")
    with pytest.raises(CancelledError):
        run(engine, job, PARTS + "time.sleep(60)\n", after(0.3))
    assert not Path(job.output + ".part").exists()


def test_status_of_windows_memory_and_crash(monkeypatch):
    monkeypatch.setattr("lacuna.host.client.os.name", "nt")
    assert "0xC0000005" in explain_status(0xC0000005)[0]


def test_enough_is_told_once_and_the_result_still_comes(engine, job):
    body = (
        "order = json.loads(sys.stdin.readline())\n"
        "time.sleep(2)\n"  # longer than a cancelled engine is given
        "say(event='result', order=order)\n"
    )
    started = time.monotonic()
    result, _ = run(engine, job, body, enough=lambda: time.monotonic() - started > 0.3)
    assert result["order"] == {"cancel": True, "keep_best": True}


def test_a_job_that_was_told_enough_can_still_be_cancelled(engine, job):
    started = time.monotonic()
    with pytest.raises(CancelledError):
        run(engine, job, "sys.stdin.readline()\ntime.sleep(60)\n", after(0.5), enough=lambda: True)
    assert time.monotonic() - started < 3.5

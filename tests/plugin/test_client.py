# SPDX-License-Identifier: GPL-2.0-or-later
"""The client of the engine process, against small real processes that speak the protocol, or die of it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from lacuna.engine.errors import CancelledError, LacunaError
from lacuna.host.client import EngineClient, explain_status

PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


def never(*ignored) -> bool:
    return False


def run(engine, job, body, cancelled=never, enough=never):
    """Run a small engine; `cancelled` and `enough` are asked with the events so far, so `bool` waits for the first."""
    events = []
    client = EngineClient(PYTHON, engine(body))
    try:
        return client.run(job, events.append, lambda: cancelled(events), lambda: enough(events)), events
    finally:
        assert client.process.poll() is not None


@pytest.fixture
def patience(monkeypatch):
    """Return a function that sets the seconds after which a cancelled engine is terminated, and then killed."""

    def choose(terminate, kill):
        monkeypatch.setattr(f"{EngineClient.__module__}.TERMINATE_AFTER", terminate)
        monkeypatch.setattr(f"{EngineClient.__module__}.KILL_AFTER", kill)

    return choose


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


IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


# Each is given long at the step that ends it, and little before that.
@pytest.mark.parametrize(
    ("body", "limits", "status"),
    [
        (PARTS + "sys.stdin.readline()\nsys.exit(130)\n", (120, 121), 130),
        (PARTS + "time.sleep(600)\n", (0.1, 120), -signal.SIGTERM),
        (IGNORE + PARTS + "time.sleep(600)\n", (0.1, 0.2), -signal.SIGKILL),
    ],
    ids=["obeys", "does not listen", "ignores even SIGTERM"],
)
def test_cancel_asks_then_terminates_then_kills_and_leaves_no_file(
    engine, job, tmp_path, patience, body, limits, status
):
    patience(*limits)
    events, client = [], EngineClient(PYTHON, engine(body))
    with pytest.raises(CancelledError):
        client.run(job, events.append, lambda: bool(events))
    assert client.process.returncode == status
    assert [path.name for path in tmp_path.iterdir()] == ["engine.py"]


def test_an_engine_that_refuses_is_given_less_than_three_seconds(engine, job, monkeypatch):
    given = []
    monkeypatch.setattr(f"{EngineClient.__module__}._wait", lambda process, seconds: given.append(seconds))
    with pytest.raises(CancelledError):
        run(engine, job, IGNORE + PARTS + "time.sleep(600)\n", cancelled=bool)
    assert len(given) == 2 and min(given) > 0
    assert sum(given) < 3


def test_a_cancelled_run_names_of_outputs_with_brackets(engine, job, tmp_path, patience):
    patience(0.1, 0.2)
    job.output = str(tmp_path / "classes [1].tif")
    with pytest.raises(CancelledError):
        run(engine, job, PARTS + "time.sleep(600)\n", cancelled=bool)
    assert not Path(job.output + ".part").exists()


def test_status_of_windows_memory_and_crash(monkeypatch):
    monkeypatch.setattr("lacuna.host.client.os.name", "nt")
    assert "0xC0000005" in explain_status(0xC0000005)[0]


def test_enough_is_told_once_and_the_result_still_comes(engine, job, patience):
    patience(0.1, 0.2)
    body = (
        "say(event='progress', done=1, total=2, unit='epochs')\n"
        "order = json.loads(sys.stdin.readline())\n"
        "time.sleep(0.6)\n"  # longer than a cancelled engine is given
        "say(event='result', order=order)\n"
    )
    result, _ = run(engine, job, body, enough=bool)
    assert result["order"] == {"cancel": True, "keep_best": True}


def test_a_job_that_was_told_enough_can_still_be_cancelled(engine, job, patience):
    patience(0.1, 0.2)
    body = (
        "say(event='progress', done=1, total=2, unit='epochs')\n"
        "say(event='message', level='info', text=sys.stdin.readline())\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(CancelledError):
        run(engine, job, body, cancelled=lambda events: len(events) == 2, enough=bool)

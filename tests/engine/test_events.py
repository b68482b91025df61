# SPDX-License-Identifier: GPL-2.0-or-later
"""Events: what a reporter says, in which form, and when it stops a job."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine import events
from lacuna.engine.errors import CancelledError, LacunaError
from lacuna.engine.events import Reporter


@pytest.fixture
def said():
    return []


@pytest.fixture
def reporter(said):
    return Reporter(said.append)


def test_events_have_the_form_of_the_contract():
    assert events.progress(52, 121, "tiles", 59.7) == {
        "event": "progress",
        "done": 52,
        "total": 121,
        "unit": "tiles",
        "seconds_left": 60,
    }
    assert events.message("info", "x") == {"event": "message", "level": "info", "text": "x"}
    assert events.result(classes="c.tif") == {"event": "result", "classes": "c.tif"}
    assert events.error(LacunaError("file-missing", "No a.tif.", "Look.")) == {
        "event": "error",
        "code": "file-missing",
        "text": "No a.tif.",
        "hint": "Look.",
    }


@given(st.dictionaries(st.text(), st.none() | st.text() | st.integers() | st.lists(st.booleans())))
def test_parse_reads_back_what_a_line_holds(values):
    event = events.result(**values) if "event" not in values else {**values, "event": "result"}
    assert events.parse(json.dumps(event)) == event


@pytest.mark.parametrize("line", ["", "Loading...", "3", "[]", "{}", '{"event": 3}', '{"event": "x"'])
def test_parse_gives_none_for_what_a_library_prints(line):
    assert events.parse(line) is None


def test_a_warning_is_said_once_and_kept(reporter, said):
    reporter.warn("no CRS")
    reporter.warn("no CRS")
    reporter.info("no CRS")
    assert [event["level"] for event in said] == ["warning", "info"]
    assert reporter.warnings == ["no CRS"]


def test_the_time_left_follows_from_the_pace(reporter, said, monkeypatch):
    times = iter([100.0, 110.0, 140.0])
    monkeypatch.setattr(events.time, "monotonic", lambda: next(times))
    reporter.progress(10, 50, "tiles")  # taken up: ten were there already
    reporter.progress(20, 50, "tiles")
    reporter.progress(50, 50, "tiles")
    assert [event["seconds_left"] for event in said] == [None, 30, 0]


def test_a_unit_that_starts_anew_is_timed_anew(reporter, said, monkeypatch):
    times = iter([0.0, 50.0, 100.0, 101.0])
    monkeypatch.setattr(events.time, "monotonic", lambda: next(times))
    for done in (0, 10, 0, 1):
        reporter.progress(done, 10, "tiles")
    assert [event["seconds_left"] for event in said] == [None, 0, None, 9]


def test_check_raises_once_someone_has_cancelled(reporter):
    reporter.check()
    reporter.cancelled.set()
    with pytest.raises(CancelledError):
        reporter.check()


def test_events_of_many_threads_come_one_at_a_time(monkeypatch):
    inside, overlaps, count = threading.Lock(), [], []

    def emit(event):
        if not inside.acquire(blocking=False):
            overlaps.append(event)
            return
        count.append(event)
        inside.release()

    reporter = Reporter(emit)
    threads = [threading.Thread(target=lambda: [reporter.info("x") for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == []
    assert len(count) == 800


def test_an_error_in_words_is_its_text_and_its_hint():
    assert str(LacunaError("x", "Found a.", "Do b.")) == "Found a. Do b."
    assert str(LacunaError("x", "Found a.")) == "Found a."

# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetching from a real server on loopback: what comes, what is taken up again, and what is thrown away."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from lacuna.engine.catalogue import download as downloading
from lacuna.engine.catalogue.entry import entry_from_item
from lacuna.engine.catalogue.fetch import fetch, is_here
from lacuna.engine.errors import CancelledError, LacunaError
from lacuna.engine.locks import only_writer

from .conftest import NAME

FILE = f"{NAME}.safetensors"


@pytest.fixture
def get(server, item, network, reporter, tmp_path):
    """A function that fetches the item, as it is by then, into an empty folder, and returns the file's path."""

    def run(**options):
        entry = entry_from_item(item, f"{server.address}/catalogue.json")
        return Path(fetch(entry, str(tmp_path / "here"), network, reporter, **options))

    return run


@pytest.fixture
def refused(get, tmp_path):
    """A function that fetches, sees it refused, and returns the error and the names of the files that stay."""

    def run(**options):
        with pytest.raises(LacunaError) as caught:
            get(**options)
        assert caught.value.hint
        folder = tmp_path / "here"
        return caught.value, sorted(os.listdir(folder)) if folder.exists() else []

    return run


def ranges(server):
    return [headers.get("Range") for path, headers in server.asked if path == f"/{FILE}"]


def test_the_file_that_comes_is_the_one_that_was_promised(get, server, body, reporter, tmp_path):
    path = get()
    assert path == tmp_path / "here" / FILE
    assert path.read_bytes() == body
    assert os.listdir(tmp_path / "here") == [FILE]
    last = [event for event in reporter.heard if event["event"] == "progress"][-1]
    assert (last["done"], last["total"], last["unit"]) == (len(body) // 1000, len(body) // 1000, "kB")


def test_a_file_that_is_here_is_not_fetched_again(get, server, item):
    first = get()
    assert get() == first
    assert ranges(server) == [None]


def test_a_cut_connection_is_taken_up_by_itself(get, server, body):
    server.cuts = [700_000, 900_000]
    assert get().read_bytes() == body
    assert ranges(server) == [None, "bytes=700000-", "bytes=1600000-"]
    assert server.asked[-1][1]["If-Range"] == server.mark


def test_what_came_before_a_failure_stays_and_is_gone_on_with(get, refused, server, body):
    server.cuts = [700_000, 0, 0, 0]
    problem, left = refused()
    assert problem.code == "interrupted"
    assert "700 kB of 1.9 MB" in problem.text
    assert left == [f"{FILE}.part", f"{FILE}.part.json"]
    server.asked.clear()
    assert get().read_bytes() == body
    assert ranges(server) == ["bytes=700000-"]


def test_last_modified_will_do_where_there_is_no_strong_tag(get, server, body):
    server.mark, server.cuts = 'W/"weak"', [700_000]
    assert get().read_bytes() == body
    assert server.asked[-1][1]["If-Range"] == server.date


def test_a_file_without_any_mark_is_fetched_anew(get, server, body):
    server.mark, server.date, server.cuts = "", "", [700_000]
    assert get().read_bytes() == body
    assert ranges(server) == [None, None]


def test_nothing_stays_of_a_file_that_cannot_be_gone_on_with(refused, server):
    server.mark, server.date, server.cuts = "", "", [700_000] * 3
    problem, left = refused()
    assert (problem.code, left) == ("interrupted", [])


def test_a_server_without_ranges_sends_it_all_again(get, server, body):
    server.ranges, server.cuts = False, [700_000]
    assert get().read_bytes() == body
    assert ranges(server) == [None, "bytes=700000-"]


def test_a_file_that_changed_in_between_is_fetched_from_the_start(get, refused, server, body):
    server.files[f"/{FILE}"] = bytes(len(body))  # what lay there before
    server.cuts = [700_000, 0, 0, 0]
    refused()
    server.files[f"/{FILE}"], server.mark, server.date = body, '"two"', "Thu, 01 Jan 2026 00:00:00 GMT"
    assert get().read_bytes() == body
    assert ranges(server)[-1] == "bytes=700000-"


def test_a_server_that_takes_no_notice_of_if_range_is_seen_through(get, refused, server, body):
    server.cuts = [700_000, 0, 0, 0]
    refused()
    # The part is of another version, says the mark of the answer; the server sends its rest all the same.
    server.mark = '"two"'
    handler = server.RequestHandlerClass

    class Careless(handler):
        def give(self, served, body):
            del self.headers["If-Range"]
            super().give(served, body)

    server.RequestHandlerClass = Careless
    assert get().read_bytes() == body
    assert ranges(server)[-2:] == ["bytes=700000-", None]


def test_a_part_of_another_version_is_of_no_use(get, refused, server, item, body):
    server.cuts = [700_000, 0, 0, 0]
    refused()
    other = body[:-1] + b"\xff"
    item["assets"]["model"]["file:checksum"] = "1220" + hashlib.sha256(other).hexdigest()
    server.files[f"/{FILE}"] = other
    assert get().read_bytes() == other
    assert ranges(server)[-1] is None


def test_a_part_as_long_as_a_file_that_shrank_is_thrown_away(refused, server):
    server.cuts = [700_000, 0, 0, 0]
    refused()
    server.files[f"/{FILE}"] = bytes(1000)
    problem, left = refused()
    assert (problem.code, left) == ("wrong-size", [])


def test_a_wrong_sum_leaves_nothing(refused, server, body):
    server.files[f"/{FILE}"] = body[:-1] + b"\xff"
    problem, left = refused()
    assert (problem.code, left) == ("wrong-sum", [])
    assert hashlib.sha256(body).hexdigest() in problem.text


@pytest.mark.parametrize("announces", [True, False])
@pytest.mark.parametrize("more", [b"x", b"x" * 500_000])
def test_a_file_that_is_too_long_leaves_nothing(refused, server, body, announces, more):
    server.files[f"/{FILE}"], server.announces = body + more, announces
    problem, left = refused()
    assert (problem.code, left) == ("wrong-size", [])


def test_a_file_that_is_too_short_leaves_nothing(refused, server, body):
    server.files[f"/{FILE}"] = body[:-1]
    problem, left = refused()
    assert (problem.code, left) == ("wrong-size", [])


def test_an_endless_file_is_left_at_its_promised_end(refused, server):
    server.endless, server.announces = True, False
    server.cuts = [10**12]
    problem, left = refused()
    assert (problem.code, left) == ("wrong-size", [])


def test_a_card_that_the_catalogue_made_up_leaves_nothing(refused, item):
    item["properties"]["lacuna:card"]["scores"][0]["miou"] = 0.99
    problem, left = refused()
    assert (problem.code, left) == ("card-differs", [])
    assert "scores" in problem.text


def test_a_file_that_is_no_checkpoint_leaves_nothing(refused, server, item, body):
    other = bytes(len(body))
    server.files[f"/{FILE}"] = other
    item["assets"]["model"]["file:checksum"] = "1220" + hashlib.sha256(other).hexdigest()
    problem, left = refused()
    assert (problem.code, left) == ("not-safetensors", [])
    assert problem.text.startswith(server.address)


def test_another_file_of_the_name_stays_unless_it_may_be_replaced(get, refused, body, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / FILE).write_bytes(b"mine")
    problem, left = refused()
    assert (problem.code, left) == ("output-exists", [FILE])
    assert (tmp_path / "here" / FILE).read_bytes() == b"mine"
    assert get(overwrite=True).read_bytes() == body


def test_a_licence_that_must_be_accepted(get, refused, server, item, reporter):
    item["properties"].update({"lacuna:accept_licence": True, "lacuna:licence_text": "Only on Sundays."})
    problem, left = refused()
    assert (problem.code, left, server.asked) == ("licence-not-accepted", [], [])
    assert "Only on Sundays." in [event["text"] for event in reporter.heard if event["event"] == "message"]
    assert os.path.exists(get(accept_licence=True))


def test_two_at_once_do_not_write_one_file(refused, tmp_path):
    (tmp_path / "here").mkdir()
    with only_writer(str(tmp_path / "here" / f"{FILE}.part.lock"), "it"):
        problem, _ = refused()
    assert problem.code == "output-busy"


def test_cancel_comes_at_once_though_the_server_is_silent(get, server, reporter, tmp_path):
    server.slow = threading.Event()
    ended = []

    def run():
        try:
            get()
        except CancelledError:
            ended.append(time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    while not [event for event in reporter.heard if event["event"] == "progress"]:
        time.sleep(0.01)
    reporter.cancelled.set()
    thread.join(20)
    assert len(ended) == 1
    # The server waits on: only the part that can be gone on with is there.
    assert not server.slow.is_set()
    assert sorted(os.listdir(tmp_path / "here")) == [f"{FILE}.part", f"{FILE}.part.json"]
    server.slow.set()
    server.slow, reporter.cancelled = None, threading.Event()
    assert os.path.exists(get())
    assert ranges(server)[-1] == "bytes=100000-"


def test_a_full_disk_is_seen_beforehand(refused, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 10**6, 10**6))
    problem, left = refused()
    assert (problem.code, left) == ("disk-full", [])
    assert "1.9 MB" in problem.text and "1.0 MB are free" in problem.text


def test_a_disk_that_fills_up_in_the_middle(get, refused, monkeypatch, body):
    real = open
    room = [1_000_000]

    class Narrow:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *ignored):
            self.stream.close()

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def write(self, block):
            room[0] -= len(block)
            if room[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.stream.write(block)

    def narrow(path, mode="r", **more):
        stream = real(path, mode, **more)
        return Narrow(stream) if str(path).endswith(".part") and mode in ("wb", "r+b") else stream

    monkeypatch.setattr(downloading, "open", narrow, raising=False)
    problem, left = refused()
    assert problem.code == "disk-full"
    assert left == [f"{FILE}.part", f"{FILE}.part.json"]
    room[0] = 10**9
    assert get().read_bytes() == body


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_small_disk_that_fills_up(server, item, network, reporter, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        entry = entry_from_item(item, f"{server.address}/catalogue.json")
        with pytest.raises(LacunaError) as beforehand:
            fetch(entry, str(disk), network, reporter)
        assert (beforehand.value.code, os.listdir(disk)) == ("disk-full", [])
        monkeypatch.setattr(downloading, "_check_space", lambda path, needed: None)
        with pytest.raises(LacunaError) as midway:
            fetch(entry, str(disk), network, reporter)
        assert midway.value.code == "disk-full"
        assert f"{FILE}" not in os.listdir(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_from_a_folder_share_and_on_from_where_it_stopped(item, network, reporter, body, tmp_path):
    share, here = tmp_path / "share", tmp_path / "here"
    share.mkdir()
    (share / FILE).write_bytes(body)
    entry = entry_from_item(item, str(share / "catalogue.json"))
    path = Path(fetch(entry, str(here), network, reporter))
    assert path.read_bytes() == body
    path.unlink()
    found = os.stat(share / FILE)
    (here / f"{FILE}.part").write_bytes(body[:1_000_000])
    note = {"size": len(body), "sha256": entry.sha256, "mark": f"{found.st_size} {found.st_mtime_ns}"}
    (here / f"{FILE}.part.json").write_text(json.dumps(note))
    reporter.heard.clear()
    assert is_here(entry, os.path.dirname(fetch(entry, str(here), network, reporter)))
    assert next(event for event in reporter.heard if event["event"] == "progress")["done"] > 1_000
    assert os.listdir(here) == [FILE]


def test_a_share_whose_file_is_gone(item, network, reporter, tmp_path):
    entry = entry_from_item(item, str(tmp_path / "catalogue.json"))
    with pytest.raises(LacunaError, match=FILE):
        fetch(entry, str(tmp_path / "here"), network, reporter)
    assert os.listdir(tmp_path / "here") == []


def test_a_folder_that_cannot_be_made(server, item, network, reporter, tmp_path):
    (tmp_path / "file").write_text("x")
    entry = entry_from_item(item, f"{server.address}/catalogue.json")
    with pytest.raises(LacunaError) as caught:
        fetch(entry, str(tmp_path / "file" / "here"), network, reporter)
    assert caught.value.code == "file-error"

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of catalogues share: a checkpoint, its item, and a real server on loopback that can also lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lacuna.engine.catalogue.entry import item_of
from lacuna.engine.catalogue.network import Network
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.events import Reporter

BUNDLED = Path(__file__).parents[3] / "resources" / "checkpoints" / "landcover-s2-s1-dem.safetensors"
NAME = "landcover-s2-s1-dem"


class Handler(BaseHTTPRequestHandler):
    """Gives what its server has, with ranges and marks as long as the server knows them."""

    def log_message(self, *ignored):
        """Say nothing."""

    def do_GET(self):
        """Answer, and put down what was asked."""
        served = self.server.served
        served.asked.append((self.path, dict(self.headers.items())))
        if self.path in served.redirects:
            self.send_response(served.redirects[self.path][0])
            self.send_header("Location", served.redirects[self.path][1])
            self.end_headers()
        elif self.path in served.refusals:
            self.send_error(served.refusals[self.path])
        elif self.path not in served.files:
            self.send_error(404)
        else:
            self.give(served, served.files[self.path])

    def give(self, served, body):
        """Send a body, or the part of it that was asked for."""
        start, found = 0, re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
        if found and served.ranges and self.headers.get("If-Range") in (None, served.mark, served.date):
            start = int(found.group(1))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if served.mark:
            self.send_header("ETag", served.mark)
        if served.date:
            self.send_header("Last-Modified", served.date)
        if served.announces:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + served.cuts.pop(0) if served.cuts else len(body)
        with contextlib.suppress(ConnectionError):
            while start < end and (served.endless or start < len(body)):
                self.wfile.write(body[start : min(end, start + 100_000)] or bytes(100_000))
                start += 100_000
                if served.slow is not None and self.path.endswith(".safetensors"):
                    served.slow.wait(20)
        self.close_connection = True


class Server(ThreadingHTTPServer):
    """A server of `files` by path on loopback.

    Attributes:
        asked: path and headers of each request.
        mark, date: sent as ETag and Last-Modified, and what If-Range must name.
        cuts: bytes after which the next answers break off.
        ranges, announces, endless: whether it knows ranges, says lengths, and goes on after the end of the file.
        slow: an event that it waits for after each block of a checkpoint.
    """

    daemon_threads = True

    def __init__(self, handler=Handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.served = self
        self.files, self.redirects, self.refusals, self.asked, self.cuts = {}, {}, {}, [], []
        self.mark, self.date = '"one"', formatdate(1.7e9, usegmt=True)
        self.ranges = self.announces = True
        self.endless, self.slow = False, None
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *ignored):
        """Say nothing: those who ask leave early."""


@pytest.fixture
def serve(monkeypatch):
    """A function that starts a server and returns it; they all end with the test."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    started = []

    def start(handler=Handler):
        server = Server(handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        if server.slow is not None:
            server.slow.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def body():
    """The bytes of the bundled checkpoint."""
    return BUNDLED.read_bytes()


@pytest.fixture
def item(body):
    """The item of the bundled checkpoint, for a test to change."""
    return item_of(read_card(str(BUNDLED)), f"{NAME}.safetensors", len(body), hashlib.sha256(body).hexdigest())


@pytest.fixture
def server(serve, body, item):
    """A server with the bundled checkpoint and its catalogue."""
    server = serve()
    server.files = {f"/{NAME}.safetensors": body, "/catalogue.json": collection(item)}
    return server


@pytest.fixture
def reporter():
    """A reporter that keeps what it hears in `heard`."""
    heard = []
    reporter = Reporter(heard.append)
    reporter.heard = heard
    return reporter


@pytest.fixture
def network():
    """A network whose servers have two seconds to say something."""
    return Network(timeout=2.0)


@pytest.fixture
def closed_port():
    """A port of loopback at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def collection(*items):
    """Return the bytes of a catalogue of `items`."""
    return json.dumps({"type": "FeatureCollection", "features": items}).encode()

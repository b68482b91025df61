# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking servers over http and https: proxies, redirects, certificates, and every failure in words.

Why the standard library, in QGIS too: QgsBlockingNetworkRequest holds a whole answer in memory, and QgsFileDownloader
cannot continue where it stopped. The side of QGIS hands over the proxy and the certificates that its options name.
"""

from __future__ import annotations

import http.client
import queue
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional, Union
from urllib.parse import urljoin, urlsplit

from ..errors import LacunaError
from ..events import Reporter
from ..version import __version__
from .address import check_address, scheme_of

# Seconds without a byte after which a server counts as gone.
TIMEOUT = 30.0
BLOCK = 1 << 18
# Seconds between two looks at whether to stop.
_POLL = 0.1


@dataclass(frozen=True)
class Network:
    """How servers are reached.

    Attributes:
        proxy: URL of the proxy, with user and password where it wants them (percent-encoded); None for what the
            environment says (`http_proxy`, `https_proxy`, `no_proxy`, or the settings of Windows and macOS).
        direct: beginnings of addresses that are asked without the proxy.
        certificates: further certificates of authorities that are trusted, in PEM.
        timeout: seconds without a byte after which a server counts as gone.
    """

    proxy: Optional[str] = None
    direct: tuple[str, ...] = ()
    certificates: str = ""
    timeout: float = TIMEOUT

    def ask(self, address: str, reporter: Reporter, headers: Optional[dict[str, str]] = None) -> Answer:
        """Ask the server at `address`; the answer must be closed.

        Raises:
            LacunaError: `network`, `network-proxy`, `network-certificate`, `not-found`, `server-refused`,
                `range-refused` (status 416) or `bad-redirect`.
            CancelledError: as soon as the reporter says so, whatever the server does.
        """
        check_address(address)
        return Answer(self, address, headers or {}, reporter)

    def opener(self, address: str) -> urllib.request.OpenerDirector:
        """Return what opens `address`: http and https, nothing else."""
        proxies = None if self.proxy is None else {"http": self.proxy, "https": self.proxy}
        if self.proxy == "" or any(address.startswith(start) for start in self.direct):
            proxies = {}
        context = ssl.create_default_context()
        if self.certificates:
            context.load_verify_locations(cadata=self.certificates)
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(proxies),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=context),
            _Redirects(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.UnknownHandler(),
        ):
            opener.add_handler(handler)
        opener.addheaders = []
        return opener


class Answer:
    """What a server answers: `status`, `headers`, and the body in blocks. A context manager that closes it.

    A thread waits for the server, for as long as the time-out says where need be; whoever asked is free to stop at
    once. The thread then ends with the next byte or the time-out.
    """

    def __init__(self, network: Network, address: str, headers: dict[str, str], reporter: Reporter) -> None:
        self.address = address
        self._reporter = reporter
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=4)
        self._left = threading.Event()
        arguments = (network, address, headers, self._queue, self._left)
        threading.Thread(target=_talk, args=arguments, name="lacuna-network", daemon=True).start()
        try:
            self.status, self.headers = self._next("answer")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the thread end."""
        self._left.set()

    def blocks(self) -> Iterator[bytes]:
        """Yield the body, until its end or until the connection is cut (`interrupted`)."""
        while True:
            block = self._next("block")
            if not block:
                return
            yield block

    def read(self, limit: int) -> bytes:
        """Return the body, of which not more than one block beyond `limit` bytes is read; LacunaError `interrupted`."""
        found = bytearray()
        for block in self.blocks():
            found += block
            if len(found) > limit:
                return bytes(found)
        if self.length is not None and len(found) < self.length:
            raise interrupted(self.address, f"{len(found)} of {self.length} bytes had come")
        return bytes(found)

    @property
    def length(self) -> Optional[int]:
        """The number of bytes that the server announces, or None."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def _next(self, kind: str) -> Any:
        """Return what comes next, which must be of a `kind`."""
        while True:
            self._reporter.check()
            try:
                found, value = self._queue.get(timeout=_POLL)
            except queue.Empty:
                continue
            if found == "problem":
                raise _in_words(value, self.address, started=kind == "block")
            return value


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects from http or https to the same or from http to https, not back, and to nothing else."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Follow a redirect, or say why not; the base class passes over odd schemes in its own words."""
        goal = urljoin(req.full_url, headers.get("Location") or headers.get("URI") or "")
        if scheme_of(goal) not in ("http", "https") or (scheme_of(req.full_url), scheme_of(goal)) == ("https", "http"):
            raise LacunaError(
                "bad-redirect",
                f"The server sends {req.full_url} on to {goal[:200]!r}, where Lacuna does not follow: from https only "
                "to https, from http only to http or https.",
                "Tell whoever runs the server.",
            )
        return super().http_error_302(req, fp, code, msg, headers)

    # Python 3.9 and 3.10 do not know 308.
    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request to the new address, without what was meant for the proxy of the old one."""
        kept = {name: value for name, value in req.headers.items() if name.lower() != "proxy-authorization"}
        return urllib.request.Request(newurl.replace(" ", "%20"), headers=kept)


def _talk(
    network: Network, address: str, headers: dict[str, str], into: queue.Queue[tuple[str, Any]], left: threading.Event
) -> None:
    """Ask, and put the answer, its blocks, and at last an empty one into a queue; or what went wrong."""

    def put(kind: str, value: Any) -> bool:
        while not left.is_set():
            try:
                into.put((kind, value), timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False

    try:
        # Not gzip: sizes and ranges are those of the file.
        asked = {"User-Agent": f"Lacuna/{__version__}", "Accept-Encoding": "identity", **headers}
        request = urllib.request.Request(address, headers=asked)
        with network.opener(address).open(request, timeout=network.timeout) as response:
            going = put("answer", (response.status, response.headers))
            block = b"-"
            while going and block:
                block = response.read1(BLOCK)
                going = put("block", block)
    except Exception as problem:  # handed to the thread that asked, which says it
        put("problem", problem)


def interrupted(address: str, why: str) -> LacunaError:
    """Return what an analyst is told when a body has come only in part."""
    return LacunaError(
        "interrupted",
        f"The connection to {_host(address)} was cut: {why}.",
        "Try again: where the server can, it goes on from there.",
    )


def _in_words(problem: Exception, address: str, started: bool) -> Exception:
    """Return what an analyst is told of a failure; `started` if a part of the body had come."""
    if isinstance(problem, LacunaError):
        return problem
    if isinstance(problem, urllib.error.HTTPError):
        problem.close()
        return _refused(problem, address)
    reason: Union[BaseException, str] = getattr(problem, "reason", None) or problem
    words = _words_of(reason)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return LacunaError(
            "network-certificate",
            f"The secure connection to {_host(address)} was refused: {words}.",
            "Something on the network presents its own certificate. Ask your administrator for its certificate file; "
            "add it in QGIS (Settings > Options > Authentication), or set the variable SSL_CERT_FILE to it.",
        )
    if "Tunnel connection failed" in words:
        return _proxy_refused(words)
    if not isinstance(problem, (OSError, http.client.HTTPException)):
        return problem
    if started:
        return interrupted(address, words)
    return LacunaError(
        "network",
        f"{address} cannot be reached: {words}.",
        "Check the network and the proxy (in QGIS: Settings > Options > Network), and try again.",
    )


def _refused(problem: urllib.error.HTTPError, address: str) -> LacunaError:
    """Return what a status of the server means."""
    if problem.code == 407:
        return _proxy_refused("it wants a user's name and a password (407)")
    if problem.code == 416:
        return LacunaError("range-refused", f"{address} has no such part.", "Start again from the beginning.")
    if problem.code in (404, 410):
        return LacunaError("not-found", f"There is nothing at {address} ({problem.code}).", "Check the address.")
    if problem.code in (301, 302, 303, 307, 308):
        return LacunaError("bad-redirect", f"{address} is sent on in a circle.", "Tell whoever runs the server.")
    return LacunaError(
        "server-refused",
        f"The server did not give {address}: {problem.code} {problem.reason}.",
        "Try again later. If it asks for a password, download the file in a browser.",
    )


def _proxy_refused(why: str) -> LacunaError:
    return LacunaError(
        "network-proxy",
        f"The proxy refused the connection: {why}.",
        "Check the proxy, its user and its password (in QGIS: Settings > Options > Network; else https_proxy).",
    )


def _words_of(reason: Union[BaseException, str]) -> str:
    """Return what an exception of the network says, in short."""
    if isinstance(reason, socket.timeout):
        return "it does not answer in time"
    if isinstance(reason, socket.gaierror):
        return "its name is not known; there may be no connection to the Internet"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    text = str(reason).strip().rstrip(".")
    return text or type(reason).__name__


def _host(address: str) -> str:
    return urlsplit(address).hostname or address

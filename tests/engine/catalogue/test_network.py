# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers that redirect, refuse or fall silent, and proxies: each in words, and none followed where it may not be."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import subprocess
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lacuna.engine.catalogue.listing import read_catalogue
from lacuna.engine.catalogue.network import Network, _Redirects
from lacuna.engine.errors import LacunaError


class Proxy(BaseHTTPRequestHandler):
    """A proxy for http that wants the user `ana` with the password `p@ss word`; it gives what its server has."""

    def log_message(self, *ignored):
        """Say nothing."""

    def do_GET(self):
        """Give the page from elsewhere, under the whole address that was asked for."""
        served = self.server.served
        served.asked.append((self.path, dict(self.headers.items())))
        if not self.allowed():
            return
        body = served.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def allowed(self):
        """Return whether the right user asks, or refuse."""
        right = self.headers.get("Proxy-Authorization") == "Basic " + base64.b64encode(b"ana:p@ss word").decode()
        if not right:
            self.send_error(407)
        return right

    def do_CONNECT(self):
        """Open a tunnel, whatever it is for, to the server that `tunnel` names."""
        if not self.allowed():
            return
        self.send_response(200)
        self.end_headers()
        self.server.served.asked.append((self.path, {}))
        with socket.create_connection(self.server.served.tunnel) as goal:
            back = threading.Thread(target=relay, args=(goal, self.connection), daemon=True)
            back.start()
            relay(self.connection, goal)
            back.join(20)
        self.close_connection = True


def relay(source, goal):
    """Pass on what comes from one socket to another until it ends."""
    with contextlib.suppress(OSError):
        while block := source.recv(65536):
            goal.sendall(block)
        goal.shutdown(socket.SHUT_WR)


@pytest.fixture
def refusal(network, reporter):
    """A function that asks for an address and returns the error it gets."""

    def ask(address, by=network):
        with pytest.raises(LacunaError) as caught:
            read_catalogue(address, by, reporter)
        assert caught.value.hint
        return caught.value

    return ask


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "not-found"), (410, "not-found"), (401, "server-refused"), (503, "server-refused"), (407, "network-proxy")],
)
def test_a_refusal_is_said(server, refusal, status, code):
    server.refusals["/catalogue.json"] = status
    problem = refusal(f"{server.address}/catalogue.json")
    assert problem.code == code and str(status) in problem.text


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server, network, reporter, status):
    server.redirects["/here"] = (status, "/catalogue.json")
    catalogue = read_catalogue(f"{server.address}/here", network, reporter)
    # Names of files are relative to the address that was given: that of a release, not of where its files are kept.
    assert catalogue.address == f"{server.address}/here"
    assert len(catalogue.entries) == 1


@pytest.mark.parametrize("goal", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x/", ""])
def test_redirects_to_anything_else_are_not(server, refusal, goal):
    server.redirects["/here"] = (302, goal)
    assert refusal(f"{server.address}/here").code == "bad-redirect"


def test_redirects_in_a_circle_end(server, refusal):
    server.redirects["/here"] = (302, "/here")
    assert refusal(f"{server.address}/here").code == "bad-redirect"


def test_nobody_listens(refusal, closed_port, serve):
    problem = refusal(f"http://127.0.0.1:{closed_port}/catalogue.json")
    assert problem.code == "network" and "refused" in problem.text


def test_a_name_that_nobody_knows(refusal, serve):
    assert refusal("https://lacuna.invalid/catalogue.json").code == "network"


def test_a_server_that_says_nothing(serve, refusal):
    class Silent(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.slow.wait(20)

    server = serve(Silent)
    server.slow = threading.Event()
    problem = refusal(f"{server.address}/catalogue.json", Network(timeout=0.3))
    assert problem.code == "network" and "in time" in problem.text


def test_a_catalogue_that_is_cut_off(server, refusal):
    server.cuts = [100]
    assert refusal(f"{server.address}/catalogue.json").code == "interrupted"


def test_a_server_that_speaks_no_http(serve, refusal):
    class Odd(BaseHTTPRequestHandler):
        def handle(self):
            self.rfile.readline()
            self.wfile.write(b"220 welcome\r\n")

    assert refusal(f"{serve(Odd).address}/catalogue.json").code == "network"


@pytest.mark.parametrize("address", ["ftp://a/c.json", "http://", "http://u:p@a/c.json", "http://a b/c", "s3://a/b"])
def test_addresses_that_are_none(refusal, address):
    assert refusal(address).code == "bad-address"


def test_a_proxy_with_user_and_password(server, serve, network, reporter, monkeypatch):
    proxy = serve(Proxy)
    address = "http://models.invalid/catalogue.json"
    proxy.files[address] = server.files["/catalogue.json"]
    url = proxy.address.replace("http://", "http://ana:p%40ss%20word@")
    assert len(read_catalogue(address, Network(proxy=url), reporter).entries) == 1
    monkeypatch.setenv("http_proxy", url)
    assert len(read_catalogue(address, network, reporter).entries) == 1
    # An empty proxy means none, whatever the environment says.
    with pytest.raises(LacunaError, match="cannot be reached"):
        read_catalogue(address, Network(proxy=""), reporter)
    with pytest.raises(LacunaError, match="cannot be reached"):
        read_catalogue(address, Network(proxy=url, direct=("http://models.",)), reporter)


def test_a_proxy_that_refuses(serve, refusal):
    proxy = serve(Proxy)
    for address in ("http://models.invalid/c.json", "https://models.invalid/c.json"):
        problem = refusal(address, Network(proxy=proxy.address))
        assert problem.code == "network-proxy", address


def test_the_password_of_a_proxy_is_not_passed_on_by_a_redirect():
    request = urllib.request.Request("http://a/b", headers={"Proxy-authorization": "Basic x", "Range": "bytes=3-"})
    sent = _Redirects().redirect_request(request, None, 302, "", {}, "https://c/d")
    assert {name.lower() for name in sent.headers} == {"range"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Key and certificate of a server that no authority knows."""
    folder = tmp_path_factory.mktemp("certificate")
    key, found = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=lacuna test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(found)], check=True, capture_output=True)
    return str(key), str(found)


def secured(server, certificate):
    """Let a server speak https, and return its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server.address.replace("http:", "https:")


def test_https_through_a_proxy_with_user_and_password(server, serve, reporter, certificate):
    proxy, address = serve(Proxy), secured(server, certificate)
    proxy.tunnel = server.server_address
    url = proxy.address.replace("http://", "http://ana:p%40ss%20word@")
    network = Network(proxy=url, certificates=Path(certificate[1]).read_text(), timeout=5.0)
    assert len(read_catalogue(f"{address}/catalogue.json", network, reporter).entries) == 1
    assert [path for path, _ in proxy.asked] == [f"127.0.0.1:{server.server_address[1]}"]
    # What is for the proxy does not reach the server behind it.
    assert "Proxy-Authorization" not in {name.title() for name in server.asked[0][1]}


def test_certificates_are_checked_and_more_can_be_trusted(server, refusal, reporter, certificate):
    address = secured(server, certificate)
    assert refusal(f"{address}/catalogue.json").code == "network-certificate"
    trusting = Network(certificates=Path(certificate[1]).read_text(), timeout=2.0)
    assert len(read_catalogue(f"{address}/catalogue.json", trusting, reporter).entries) == 1
    # Back to where nobody is protected is no way to go.
    server.redirects["/here"] = (302, f"http://127.0.0.1:{server.server_address[1]}/catalogue.json")
    assert refusal(f"{address}/here", trusting).code == "bad-redirect"

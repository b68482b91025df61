# SPDX-License-Identifier: GPL-2.0-or-later
"""*Get more checkpoints...* with real clicks and a real server on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from qgis.core import QgsApplication, QgsNetworkAccessManager
from qgis.PyQt import sip
from qgis.PyQt.QtCore import QPoint, Qt
from qgis.PyQt.QtNetwork import QNetworkProxy

from lacuna.engine.catalogue.publish import publish
from lacuna.engine.errors import LacunaError
from lacuna.engine.events import silent
from lacuna.engine.jobs import CatalogueJob
from lacuna.host import catalogues
from lacuna.settings import Settings
from lacuna.ui.finetune_page import FinetunePage
from lacuna.ui.inputs import ModelInputs
from lacuna.ui.segment_page import SegmentPage

NAME = "landcover-s2-s1-dem"


class Handler(SimpleHTTPRequestHandler):
    """Gives the files of a folder; checkpoints in blocks, each of which waits for the server's gate."""

    def log_message(self, *ignored):
        """Say nothing."""

    def do_GET(self):
        """Answer, and put down what was asked."""
        self.server.asked.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile):
        """Send a file in blocks."""
        with contextlib.suppress(ConnectionError):
            for block in iter(lambda: source.read(100_000), b""):
                outputfile.write(block)
                self.server.gate.wait(20)


@pytest.fixture
def published(tmp_path, checkpoint, monkeypatch):
    """A server of a folder with a checkpoint and its catalogue; `folder`, `address`, `asked`, `gate`."""
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "published"
    folder.mkdir()
    shutil.copy(checkpoint, folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.daemon_threads = True
    server.asked, server.gate, server.folder = [], threading.Event(), folder
    server.gate.set()
    server.address = f"http://127.0.0.1:{server.server_address[1]}/catalogue.json"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    publish(CatalogueJob(str(folder)), silent())
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The analyst's folder, in a profile of its own."""
    monkeypatch.setattr(QgsApplication, "qgisSettingsDirPath", staticmethod(lambda: f"{tmp_path}/profile/"))
    return tmp_path / "profile" / "lacuna" / "checkpoints"


@pytest.fixture
def inputs(qgis_app, own, published, qtbot):
    """The checkpoint chooser of a page, by whose menu the dialog opens; the options name the server."""
    Settings().catalogue = published.address
    inputs = ModelInputs()
    qtbot.addWidget(inputs)
    inputs.list_checkpoints()
    inputs.show()
    yield inputs
    inputs.shut()


@pytest.fixture
def dialog(inputs, qtbot):
    """The dialog, with the catalogue in it."""
    return opened(inputs, qtbot)


def opened(inputs, qtbot):
    """Open the dialog by the menu of the chooser and wait for the catalogue."""
    action = next(item for item in inputs.checkpointMenu.actions() if "more" in item.text())
    action.trigger()
    dialog = inputs._catalogue
    assert dialog.isVisible()
    settle(dialog, qtbot)
    return dialog


def settle(dialog, qtbot):
    qtbot.waitUntil(lambda: dialog._task is None)


def click(button, qtbot):
    assert button.isEnabled(), button.text()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))


def test_the_catalogue_shows_cards_and_scores_and_fetches_nothing(dialog, own, published):
    row = dialog.list.topLevelItem(0)
    texts = [row.text(column) for column in range(dialog.list.columnCount())]
    assert texts == [NAME, "optical, radar, elevation", "8", "0.37", "1.9 MB", "", "CC-BY-SA-4.0"]
    card = dialog.cardText.toPlainText()
    assert "mIoU 0.37 with all modalities; 0.06 (elevation) to 0.37 (optical + radar) with fewer" in card
    assert "TerraMesh" in card
    assert str(own) in dialog.folderLabel.text()
    assert published.asked == ["/catalogue.json"]
    assert not own.exists()


def test_a_click_downloads_and_the_checkpoint_is_chosen(dialog, inputs, own, published, qtbot):
    click(dialog.downloadButton, qtbot)
    settle(dialog, qtbot)
    path = str(own / f"{NAME}.safetensors")
    assert Path(path).read_bytes() == (published.folder / f"{NAME}.safetensors").read_bytes()
    assert inputs.checkpoint() == path
    assert inputs.card.name == NAME
    # Two of one name can be told apart.
    texts = [inputs.checkpointCombo.itemText(index) for index in range(inputs.checkpointCombo.count())]
    assert texts.count(NAME) == 1 and texts.count(f"{NAME} (in {own})") == 1
    assert "is here" in dialog.messageLabel.text()
    assert dialog.list.topLevelItem(0).text(5) == "yes"
    # It is listed beside the bundled one from now on.
    other = ModelInputs()
    qtbot.addWidget(other)
    other.list_checkpoints()
    assert other.checkpointCombo.findData(path) > 0
    other.shut()


def test_one_that_is_here_is_used_without_a_download(dialog, inputs, own, published, qtbot):
    own.mkdir(parents=True)
    shutil.copy(published.folder / f"{NAME}.safetensors", own)
    click(dialog.listButton, qtbot)
    settle(dialog, qtbot)
    published.asked.clear()
    assert dialog.downloadButton.text() == "Use"
    click(dialog.downloadButton, qtbot)
    assert inputs.checkpoint() == str(own / f"{NAME}.safetensors")
    assert published.asked == []
    assert not dialog.isVisible()


def test_another_file_of_the_name_is_replaced_only_by_a_button_that_says_so(dialog, own, published, qtbot):
    own.mkdir(parents=True)
    (own / f"{NAME}.safetensors").write_bytes(b"mine")
    click(dialog.listButton, qtbot)
    settle(dialog, qtbot)
    assert dialog.downloadButton.text() == "Download and replace"
    assert "replaced" in dialog.folderLabel.text()
    click(dialog.downloadButton, qtbot)
    settle(dialog, qtbot)
    assert (own / f"{NAME}.safetensors").stat().st_size == 1938186


def test_progress_shows_and_cancel_leaves_what_can_be_gone_on_with(dialog, own, published, qtbot):
    published.gate.clear()
    click(dialog.downloadButton, qtbot)
    qtbot.waitUntil(lambda: dialog.progressBar.value() > 0)
    assert dialog.progressBar.maximum() == 1938
    assert "kB" in dialog.progressLabel.text()
    assert not dialog.list.isEnabled() and not dialog.downloadButton.isEnabled()
    click(dialog.cancelButton, qtbot)
    settle(dialog, qtbot)
    assert not published.gate.is_set()
    assert "Cancelled" in dialog.messageLabel.text()
    assert sorted(os.listdir(own)) == [f"{NAME}.safetensors.part", f"{NAME}.safetensors.part.json"]
    assert dialog.downloadButton.isEnabled() and not dialog.cancelButton.isVisible()


def test_closing_cancels(dialog, own, published, qtbot):
    published.gate.clear()
    click(dialog.downloadButton, qtbot)
    qtbot.waitUntil(lambda: dialog.progressBar.value() > 0)
    click(dialog.closeButton, qtbot)
    settle(dialog, qtbot)
    assert not published.gate.is_set()
    assert not (own / f"{NAME}.safetensors").exists()


def test_a_download_ends_quietly_when_the_panel_goes(qgis_app, own, published, qtbot):
    Settings().catalogue = published.address
    inputs = ModelInputs()
    dialog = opened(inputs, qtbot)
    published.gate.clear()
    click(dialog.downloadButton, qtbot)
    qtbot.waitUntil(lambda: dialog.progressBar.value() > 0)
    inputs.shut()
    sip.delete(inputs)
    assert sip.isdeleted(dialog)
    # What fails in a slot after that would fail this test.
    qtbot.waitUntil(lambda: QgsApplication.taskManager().countActiveTasks() == 0)
    assert not published.gate.is_set()


def test_a_licence_is_shown_and_waits_for_its_check(inputs, own, published, qtbot):
    (published.folder / f"{NAME}.licence.txt").write_text("Only on Sundays.")
    publish(CatalogueJob(str(published.folder), overwrite=True), silent())
    dialog = opened(inputs, qtbot)
    assert dialog.licenceGroup.isVisible()
    assert dialog.licenceText.toPlainText() == "Only on Sundays."
    assert not dialog.downloadButton.isEnabled()
    click(dialog.acceptCheck, qtbot)
    click(dialog.downloadButton, qtbot)
    settle(dialog, qtbot)
    assert (own / f"{NAME}.safetensors").exists()


def test_what_is_wrong_is_said_in_the_dialog(dialog, own, published, qtbot):
    path = published.folder / f"{NAME}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    click(dialog.downloadButton, qtbot)
    settle(dialog, qtbot)
    assert "not the file that the catalogue promises" in dialog.messageLabel.text()
    assert os.listdir(own) == []
    dialog.addressEdit.setText(published.address + ".none")
    qtbot.keyClick(dialog.addressEdit, Qt.Key.Key_Return)
    settle(dialog, qtbot)
    assert "404" in dialog.messageLabel.text()
    assert dialog.isVisible()
    assert dialog.list.topLevelItemCount() == 0 and not dialog.downloadButton.isEnabled()


def test_nobody_at_the_address_is_a_plain_message(inputs, published, qtbot):
    published.shutdown()
    published.server_close()
    dialog = opened(inputs, qtbot)
    assert "cannot be reached" in dialog.messageLabel.text()
    assert "proxy" in dialog.messageLabel.text()


def test_a_catalogue_that_lies_about_one_shows_the_others(inputs, published, qtbot):
    file = published.folder / "catalogue.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    bad = json.loads(json.dumps(values["features"][0]))
    bad["id"], bad["assets"]["model"]["href"] = "bad", "../../x"
    values["features"].insert(0, bad)
    file.write_text(json.dumps(values), encoding="utf-8")
    dialog = opened(inputs, qtbot)
    assert dialog.list.topLevelItemCount() == 1
    assert "../../x" in dialog.messageLabel.text()
    assert dialog.entry().name == NAME


@pytest.mark.parametrize("kind", [SegmentPage, FinetunePage])
def test_the_pages_have_the_entry(kind, qgis_canvas, own, published, qtbot):
    Settings().catalogue = published.address
    page = kind(qgis_canvas)
    qtbot.addWidget(page)
    page.show()
    dialog = opened(page.inputs, qtbot)
    click(dialog.downloadButton, qtbot)
    settle(dialog, qtbot)
    assert page.inputs.checkpoint() == str(own / f"{NAME}.safetensors")
    page.shut()


@pytest.fixture
def proxy_of_qgis():
    """A function that sets what QGIS uses as proxy, and puts it back in the end."""
    manager = QgsNetworkAccessManager.instance()
    before = manager.fallbackProxy(), manager.excludeList(), manager.noProxyList()
    yield manager.setFallbackProxyAndExcludes
    manager.setFallbackProxyAndExcludes(*before)


def test_the_proxy_of_qgis_is_used_with_user_and_password(proxy_of_qgis):
    assert catalogues.qgis_network().proxy is None
    proxy_of_qgis(QNetworkProxy(QNetworkProxy.ProxyType.HttpProxy, "proxy", 3128, "ana", "p@ss w"), ["http://in"], [""])
    network = catalogues.qgis_network()
    assert network.proxy == "http://ana:p%40ss%20w@proxy:3128"
    assert network.direct == ("http://in",)
    proxy_of_qgis(QNetworkProxy(QNetworkProxy.ProxyType.NoProxy), [], [])
    assert catalogues.qgis_network().proxy == ""
    proxy_of_qgis(QNetworkProxy(QNetworkProxy.ProxyType.Socks5Proxy, "proxy", 1080), [], [])
    with pytest.raises(LacunaError, match="SOCKS"):
        catalogues.qgis_network()


def test_a_proxy_that_is_not_there_is_said(inputs, proxy_of_qgis, qtbot):
    proxy_of_qgis(QNetworkProxy(QNetworkProxy.ProxyType.Socks5Proxy, "proxy", 1080), [], [])
    dialog = opened(inputs, qtbot)
    assert "SOCKS" in dialog.messageLabel.text()
    # Port 1 of loopback: what is asked goes to the proxy, not to the server.
    proxy_of_qgis(QNetworkProxy(QNetworkProxy.ProxyType.HttpProxy, "127.0.0.1", 1), [], [])
    click(dialog.listButton, qtbot)
    settle(dialog, qtbot)
    assert "cannot be reached" in dialog.messageLabel.text()


def test_the_folder_of_the_options_is_the_one(own, tmp_path):
    assert catalogues.own_folder() == str(own)
    Settings().checkpoint_folder = str(tmp_path / "elsewhere")
    assert catalogues.own_folder() == str(tmp_path / "elsewhere")
    assert catalogues.own_checkpoints() == []


def test_authorities_of_qgis_are_trusted(qgis_app):
    assert "BEGIN CERTIFICATE" in catalogues.qgis_network().certificates

# SPDX-License-Identifier: GPL-2.0-or-later
"""Catalogues of checkpoints for QGIS: the analyst's folder, and the network as the options of QGIS say."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Optional
from urllib.parse import quote

from qgis.core import QgsApplication, QgsNetworkAccessManager
from qgis.PyQt.QtNetwork import QNetworkProxy

from ..engine.catalogue.address import DEFAULT_CATALOGUE, SUFFIX
from ..engine.catalogue.network import Network
from ..engine.errors import CancelledError, LacunaError
from ..engine.events import Event, Reporter
from ..settings import Settings

_HTTP_PROXIES = (
    QNetworkProxy.ProxyType.HttpProxy,
    QNetworkProxy.ProxyType.HttpCachingProxy,
    QNetworkProxy.ProxyType.FtpCachingProxy,
)


class TaskReporter(Reporter):
    """A reporter for work in a task, which asks the task whether to stop."""

    def __init__(self, listen: Callable[[Event], None], cancelled: Callable[[], bool]) -> None:
        super().__init__(listen)
        self._asked = cancelled

    def check(self) -> None:
        """Raise CancelledError if the task was cancelled."""
        if self._asked():
            raise CancelledError


def profile_folder() -> str:
    """Return the folder for checkpoints in the profile of QGIS; it may not exist."""
    return os.path.join(os.path.abspath(QgsApplication.qgisSettingsDirPath()), "lacuna", "checkpoints")


def own_folder() -> str:
    """Return the folder for checkpoints of the analyst's own, as chosen or in the profile; it may not exist."""
    return os.path.abspath(Settings().checkpoint_folder or profile_folder())


def own_checkpoints() -> list[str]:
    """Return the paths of the checkpoints in the analyst's folder, sorted."""
    folder = own_folder()
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # there is none yet, or it is on a share that is away
        return []
    return [os.path.join(folder, name) for name in names if name.endswith(SUFFIX)]


def chosen_catalogue() -> str:
    """Return the address of the catalogue that the options name, else that of the project's own."""
    return Settings().catalogue or DEFAULT_CATALOGUE


def qgis_network() -> Network:
    """Return how servers are reached by the options of QGIS; in the main thread.

    Raises:
        LacunaError: `network-proxy`, where QGIS uses a kind of proxy that Python's library does not know.
    """
    manager = QgsNetworkAccessManager.instance()
    # What QGIS itself uses: user and password of the options, or of the authentication that they name, are in it.
    proxy = manager.fallbackProxy()
    direct = tuple(address for address in [*manager.excludeList(), *manager.noProxyList()] if address)
    return Network(_proxy_url(proxy), direct, _certificates())


def _proxy_url(proxy: QNetworkProxy) -> Optional[str]:
    """Return a proxy as a URL: empty for none, None for what the system says."""
    if proxy.type() == QNetworkProxy.ProxyType.DefaultProxy:
        return None
    if proxy.type() == QNetworkProxy.ProxyType.NoProxy:
        return ""
    if proxy.type() not in _HTTP_PROXIES:
        raise LacunaError(
            "network-proxy",
            f"QGIS is set to the SOCKS proxy {proxy.hostName()}, by which Lacuna cannot download.",
            "Download the checkpoint in a browser and choose its file, or set an HTTP proxy in Settings > Options > "
            "Network.",
        )
    user = quote(proxy.user(), safe="")
    if user and proxy.password():
        user += ":" + quote(proxy.password(), safe="")
    port = f":{proxy.port()}" if proxy.port() else ""
    return f"http://{user}{'@' if user else ''}{proxy.hostName()}{port}"


def _certificates() -> str:
    """Return in PEM the authorities that QGIS trusts, among them those that the analyst has added."""
    manager = QgsApplication.authManager()
    return "" if manager.isDisabled() else bytes(manager.trustedCaCertsPemText()).decode("ascii", "ignore")

# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the plan on the page and the split on the map in step: both are shown while the plan holds, and no longer."""

from __future__ import annotations

from qgis.gui import QgsMapCanvas
from qgis.PyQt.QtCore import QPoint, QTimer
from qgis.PyQt.QtWidgets import QLabel, QScrollArea, QToolButton, QWidget

from ..compat import tr
from .forms import MUTED_COLOR, WARNING_COLOR, say
from .plan_view import PlanView
from .split_overlay import SplitOverlay


class PlanPanel:
    """What a page shows of a plan.

    Args:
        view: the plan.
        overlay: its split.
        note: what is said of the plan.
        zoom_button: shows the whole split.
        canvas: the map.
    """

    def __init__(
        self, view: PlanView, overlay: SplitOverlay, note: QLabel, zoom_button: QToolButton, canvas: QgsMapCanvas
    ) -> None:
        self._view, self._overlay, self._note, self._canvas = view, overlay, note, canvas
        self._zoom_button = zoom_button
        zoom_button.clicked.connect(self.zoom)

    def forget(self) -> None:
        """Know of no plan."""
        self._view.plan = None
        self._overlay.clear()

    def show_state(self, fresh: bool, seen: bool) -> None:
        """Show a plan that no longer holds as such.

        Args:
            fresh: whether it holds.
            seen: whether the page is seen, so that the split belongs on the map.
        """
        shown = self._view.plan is not None
        stale = shown and not fresh
        self._view.setVisible(shown)
        self._view.setEnabled(fresh)
        self._zoom_button.setVisible(fresh)
        words = tr("Reads labels and rasters and draws the split on the map; trains nothing.")
        if stale:
            words = tr("The choices have changed since: show the plan again.")
        say(self._note, "" if fresh else words, WARNING_COLOR if stale else MUTED_COLOR)
        if stale:
            self._overlay.clear()
        elif fresh and seen and not self._overlay.bands:
            self.draw()

    def draw(self) -> None:
        """Draw the split on the map."""
        if self._view.plan is not None:
            self._overlay.show(self._view.plan["regions"])

    def zoom(self) -> None:
        """Show the whole split on the map."""
        extent = self._overlay.extent()
        if extent is not None:
            extent.scale(1.1)
            self._canvas.setExtent(extent)
            self._canvas.refresh()


class Scroller:
    """Brings a part of a page into view, once it has its place; its head, where it is higher than the view.

    Args:
        area: what is scrolled.
        contents: the widget in it.
    """

    def __init__(self, area: QScrollArea, contents: QWidget) -> None:
        self._area, self._contents, self._part = area, contents, contents
        self._timer = QTimer(area)
        self._timer.setSingleShot(True)
        self._timer.setInterval(50)
        self._timer.timeout.connect(self._scroll)

    def scroll_to(self, part: QWidget) -> None:
        """Bring `part` into view soon."""
        self._part = part
        self._timer.start()

    def stop(self) -> None:
        """Scroll no more."""
        self._timer.stop()

    def _scroll(self) -> None:
        self._area.verticalScrollBar().setValue(self._part.mapTo(self._contents, QPoint(0, 0)).y())

# SPDX-License-Identifier: GPL-2.0-or-later
"""Shows the result of an evaluation: in words, as bars and tables of all cases, and one case in detail."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Optional

from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtWidgets import QAbstractItemView, QWidget

from ..compat import tr
from .bars import Bars
from .confusion_table import ConfusionTable
from .forms import MUTED_COLOR, WARNING_COLOR, load_form, say
from .number_table import Cell, NumberTable, fraction
from .report_panel import ReportPanel
from .value_table import swatch

Result = Mapping[str, Any]

_MOST_BARS = 16
# Pixels of width in which combinations of three modalities can be told apart.
_CASE_WIDTH = 190
# From here on areas are told in square kilometres.
_LARGE_M2 = 1e8


class EvaluationView(QWidget):
    """The result of an evaluation, as `docs/commands.md` describes it."""

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self._result: Result = {}
        self.bars = Bars(self, digits=3)
        self.bars.setCursor(Qt.CursorShape.PointingHandCursor)
        self.chartArea.setWidget(self.bars)
        self.sums, self.cases = NumberTable(self), NumberTable(self, sortable=True, least=_CASE_WIDTH)
        self.classes, self.confusion, self.areas = NumberTable(self), ConfusionTable(self), NumberTable(self)
        self.cases.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.cases.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        for table, name in ((self.sums, "sums"), (self.cases, "cases"), (self.classes, "classes")):
            table.setObjectName(f"{name}Table")
        self.areas.setObjectName("areasTable")
        self.report = ReportPanel(self)
        self.resultLayout.insertWidget(3, self.report)
        self.resultLayout.addWidget(self.cases)
        self.resultLayout.addWidget(self.sums)
        self.caseLayout.insertWidget(2, self.classes)
        self.caseLayout.addWidget(self.confusion)
        self.areasLayout.addWidget(self.areas)
        self.bars.clicked.connect(self.caseCombo.setCurrentIndex)
        self.cases.cellClicked.connect(self._choose_row)
        self.caseCombo.currentIndexChanged.connect(self._show_case)
        self.unitCombo.currentIndexChanged.connect(self._show_confusion)

    def show_result(self, result: Result, name: str) -> None:
        """Show `result`, and of its cases that with most modalities intact; `name` is offered for its report."""
        self._result = result
        cases = result["cases"]
        self.headlineLabel.setText(headline(result))
        say(self.noteLabel, tr("Measured on {}.").format(result["measured_on"]), MUTED_COLOR)
        say(self.warningsLabel, "\n".join(result["warnings"]), WARNING_COLOR)
        self.bars.set_rows([(case_words(case), case["miou"]) for case in cases])
        self.chartArea.setFixedHeight(self.bars.line_height() * min(len(cases), _MOST_BARS) + 2)
        self.report.show_report(result, name)
        self._show_cases()
        self._show_sums()
        self._show_areas()
        self.caseCombo.blockSignals(True)
        self.caseCombo.clear()
        self.caseCombo.addItems([case_words(case) for case in cases])
        self.caseCombo.blockSignals(False)
        main = max(range(len(cases)), key=lambda index: len(cases[index]["available"]))
        self.caseCombo.setCurrentIndex(main)
        self._show_case()

    def case(self) -> Mapping[str, Any]:
        """Return the case that is shown in detail."""
        return self._result["cases"][self.caseCombo.currentIndex()]

    def _choose_row(self, row: int) -> None:
        """Show the case of a row of the table, wherever sorting has put it."""
        self.caseCombo.setCurrentText(self.cases.item(row, 0).text())

    def _show_cases(self) -> None:
        """Fill the table of all cases."""
        header = [tr("Case"), "mIoU", "F1", "OA", tr("Kappa"), "ECE", tr("Pixels")]
        rows = [
            [
                Cell(case_words(case)),
                *(fraction(case[key], key == "miou") for key in ("miou", "f1", "oa", "kappa", "ece")),
                Cell(case["pixels"], f"{case['pixels']:,}"),
            ]
            for case in self._result["cases"]
        ]
        self.cases.show_rows(header, rows)

    def _show_sums(self) -> None:
        """Fill the table of the aggregates of EMM and RMM, a column for each level."""
        shown = self._result["protocol"] in ("emm", "rmm")
        self.sums.setVisible(shown)
        if not shown:
            return
        levels = self._result["aggregates"]
        header = [tr("mIoU"), *(tr("zeros") if item["level"] is None else f"r = {item['level']:g}" for item in levels)]
        rows = [(tr("average"), [item["average"] for item in levels])]
        for rate in levels[0]["expected"]:
            name = tr("expected, p = {}").format(rate)
            rows.append((name, [item["expected"][rate] for item in levels]))
        rows += [(tr("best"), [item["best"] for item in levels]), (tr("last"), [item["last"] for item in levels])]
        for count in range(len(levels[0]["by_damaged"])):
            rows.append((tr("{} damaged").format(count), [item["by_damaged"][count] for item in levels]))
        rows.append((tr("share of undamaged"), [item["retention"] for item in levels]))
        self.sums.show_rows(header, [[Cell(name), *map(fraction, values)] for name, values in rows])
        self.sums.setToolTip(
            tr("Expected: the score when each modality is damaged with probability p, but never all of them.")
        )

    def _show_case(self) -> None:
        """Show the case that is chosen: in bars and table, by class, and its confusion matrix."""
        index = self.caseCombo.currentIndex()
        if not self._result or index < 0:
            return
        self.bars.set_current(index)
        name = self.caseCombo.currentText()
        row = next(row for row in range(self.cases.rowCount()) if self.cases.item(row, 0).text() == name)
        self.cases.selectRow(row)
        counts = self.case()["confusion"]
        rows = []
        for number, item in enumerate(self._result["classes"]):
            labelled, mapped = sum(counts[number]), sum(line[number] for line in counts)
            hits = counts[number][number]
            rows.append(
                [
                    Cell(item["name"], icon=swatch(item["color"])),
                    fraction(self.case()["iou"][number], shaded=True),
                    fraction(hits / mapped if mapped else None),
                    fraction(hits / labelled if labelled else None),
                    Cell(labelled, f"{labelled:,}"),
                ]
            )
        self.classes.show_rows([tr("Class"), "IoU", tr("User's"), tr("Producer's"), tr("Labelled")], rows)
        for column, hint in (
            (2, tr("User's accuracy: the share of pixels mapped as a class that are of that class (precision)")),
            (3, tr("Producer's accuracy: the share of pixels of a class that are mapped as that class (recall)")),
        ):
            self.classes.horizontalHeaderItem(column).setToolTip(hint)
        self._show_confusion()

    def _show_confusion(self) -> None:
        """Show the confusion matrix in the chosen unit."""
        if self._result:
            per_cent = self.unitCombo.currentIndex() == 0
            self.confusion.show_counts(self.case()["confusion"], self._result["classes"], per_cent)

    def _show_areas(self) -> None:
        """Fill the table of the area estimates, where there are some."""
        areas = self._result.get("areas")
        self.areasGroup.setVisible(bool(areas))
        if not areas:
            return
        unit, name = (1e6, "km²") if areas["mapped_m2"] >= _LARGE_M2 else (1e4, "ha")
        words = tr("In {}, from the confusion matrix of {} and its map. Overall accuracy by area: {:.3f} ± {:.3f}.")
        words = words.format(name, " + ".join(areas["available"]), areas["oa"], areas["oa_margin"])
        say(self.areasLabel, words, MUTED_COLOR)
        rows = []
        for item, given in zip(areas["classes"], self._result["classes"]):
            figures = [item[key] / unit for key in ("mapped_m2", "area_m2", "low_m2", "high_m2")]
            cells = [Cell(round(figure, 4), f"{figure:,.2f}") for figure in figures]
            if not given["labelled"]:  # an area of 0 would look like a certainty
                cells[1:] = [Cell(None, "-", hint=tr("no labels, so nothing can be estimated"))] * 3
            rows.append([Cell(item["name"], icon=swatch(item["color"])), *cells])
        self.areas.show_rows([tr("Class"), tr("Mapped"), tr("Estimate"), tr("95 % from"), tr("to")], rows)


def case_words(case: Mapping[str, Any]) -> str:
    """Return what a case is called: its modalities; or its level, and what is damaged."""
    if "damaged" not in case:
        return " + ".join(case["available"])
    if not case["available"]:
        return str(case["level"])
    level = "" if case["level"] is None else f"r = {case['level']:g}: "
    return level + (tr("{} damaged").format(" + ".join(case["damaged"])) if case["damaged"] else tr("undamaged"))


def headline(result: Result) -> str:
    """Return the main figures of a result in words, as rich text."""
    cases = result["cases"]
    best, last = (escape(case_words(pick(cases, key=lambda case: case["miou"]))) for pick in (max, min))
    words = [
        tr("mIoU <b>{:.3f}</b> on average over {} cases; best <b>{:.3f}</b> ({}), last <b>{:.3f}</b> ({}).").format(
            result["average"], len(cases), result["best"], best, result["last"], last
        )
    ]
    main = max(cases, key=lambda case: len(case["available"]))
    figures = tr("overall accuracy <b>{:.3f}</b>").format(main["oa"])
    if main["kappa"] is not None:
        figures += tr(", kappa <b>{:.3f}</b>").format(main["kappa"])
    words.append(f"{escape(case_words(main))}: {figures}.")
    words.append(tr("Confidence and accuracy differ by <b>{:.3f}</b> on average (ECE).").format(result["ece"]))
    return "<br>".join(words)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The Fine-tune page: takes a checkpoint or starts a new model, takes layers and labels, shows a plan, and trains."""

from __future__ import annotations

import json
import os
from typing import Any, Optional, Union

from qgis.gui import QgsFileWidget, QgsMapCanvas
from qgis.PyQt.QtCore import QUrl, pyqtSignal
from qgis.PyQt.QtGui import QDesktopServices, QHideEvent, QShowEvent
from qgis.PyQt.QtWidgets import QWidget

from ..compat import tr
from ..engine.errors import LacunaError, disk_error
from ..engine.jobs import FinetuneJob, TrainJob
from ..host.exports import Exports
from ..settings import Settings
from .class_plan_box import ClassPlanBox
from .comparison_table import ComparisonTable
from .curves import Curves
from .finetune_state import Doing, FinetuneState
from .finetune_words import as_comparison, default_output, find_parent, lineage_words
from .forms import WARNING_COLOR, say
from .inputs import ModelInputs
from .job_page import JobPage
from .labels_box import LabelsBox
from .new_inputs import NewInputs
from .plan_panel import PlanPanel, Scroller
from .plan_view import PlanView
from .results import output_path, output_problem
from .split_box import SplitBox
from .split_overlay import SplitOverlay
from .training_box import TrainingBox
from .training_start import CheckpointStart, NewStart, Start, TrainingForm


class FinetunePage(JobPage):
    """The page on which an analyst trains a checkpoint on, or a new model.

    Nothing is trained that was not planned and shown first. *Show split and plan* has the engine make the plan; the
    start button does so too where the plan is not that of the present choices. It then goes on by itself if the plan
    has no warnings, and else leaves it to be read: the next click trains.

    Args:
        canvas: the map on which the split is drawn.

    Signals:
        planned: a plan is shown (the plan).
        checkpoint_made: the analyst wants to use the new checkpoint (its path).
    """

    planned = pyqtSignal(dict)
    checkpoint_made = pyqtSignal(str)

    def __init__(self, canvas: QgsMapCanvas, parent: Optional[QWidget] = None) -> None:
        super().__init__(canvas, __file__, "startButton", tr("Fine-tune a checkpoint (Lacuna)"), parent)
        self.state = FinetuneState()
        self._scroller = Scroller(self.scrollArea, self.wholeContents)
        self._add_parts()
        form = TrainingForm(self.labels, self.classes, self.split, self.training, self.plan_view)
        self._starts = CheckpointStart(self.inputs, form), NewStart(self.new_inputs, form)
        self._form = form
        self._connect()
        self.inputs.list_checkpoints()

    def _add_parts(self) -> None:
        """Put the widgets that have modules of their own into the form."""
        self.new_inputs = NewInputs(self.scrollContents)
        self.new_inputs.hide()
        for place, part in enumerate((self.startPanel, self.inputs, self.new_inputs)):
            self.formLayout.insertWidget(place, part)
        self.labels = LabelsBox(self.labelsGroup, new_classes=True)
        self.classes = ClassPlanBox(self.classesGroup)
        self.split = SplitBox(self.splitGroup)
        self.training = TrainingBox(self.trainingGroup)
        self.plan_view = PlanView(self.planGroup)
        self.curves = Curves(self.curvesGroup)
        self.comparison = ComparisonTable(self.resultGroup)
        self.overlay = SplitOverlay(self.canvas, self)
        self._plan = PlanPanel(self.plan_view, self.overlay, self.planNote, self.zoomButton, self.canvas)
        self.labelsGroupLayout.addWidget(self.labels)
        self.classesGroupLayout.addWidget(self.classes)
        self.splitGroupLayout.addWidget(self.split)
        self.trainingGroupLayout.insertWidget(0, self.training)
        self.training.add_device(self.deviceCombo)
        self.planGroupLayout.addWidget(self.plan_view)
        self.curvesLayout.addWidget(self.curves)
        self.resultLayout.insertWidget(1, self.comparison)
        for part in (self.plan_view, self.curvesGroup, self.resultGroup, self.zoomButton):
            part.hide()
        self.outputWidget.setStorageMode(QgsFileWidget.StorageMode.SaveFile)
        self.outputWidget.setFilter(tr("Checkpoints of Lacuna (*.safetensors)"))
        self.outputWidget.setDialogTitle(tr("Save the new checkpoint"))

    def _connect(self) -> None:
        """Let every change be followed by a refresh."""
        self.inputs.card_changed.connect(self._follow_card)
        self.newRadio.toggled.connect(self._follow_start)
        self.new_inputs.changed.connect(self.refresh_later)
        for part in (self.labels, self.classes, self.split, self.training):
            part.changed.connect(self.refresh_later)
        self.deviceCombo.currentIndexChanged.connect(self.refresh_later)
        self.outputWidget.fileChanged.connect(self.refresh_later)
        self.overlay.failed.connect(self.failed)
        self.planButton.clicked.connect(self.plan)
        self.parentButton.clicked.connect(lambda: self.set_checkpoint(self.state.parent))
        self.keepButton.clicked.connect(self.keep_best)
        self.useButton.clicked.connect(lambda: self.checkpoint_made.emit(self.state.result))
        self.forestButton.clicked.connect(lambda: self.checkpoint_made.emit(self.state.forest))
        self.reportButton.clicked.connect(self._open_report)

    def shut(self) -> None:
        """Cancel a running job and let go of canvas, layers and project."""
        super().shut()
        self._scroller.stop()
        self.labels.shut()
        self.overlay.shut()

    def showEvent(self, event: QShowEvent) -> None:
        """Draw the split again when the page is seen again."""
        super().showEvent(event)
        self._draw_split()

    def hideEvent(self, event: QHideEvent) -> None:
        """Take the split off the map when another page is chosen or the dock is closed."""
        super().hideEvent(event)
        self.overlay.clear()

    def set_new(self, new: bool = True) -> None:
        """Start from nothing, or from a checkpoint."""
        (self.newRadio if new else self.checkpointRadio).setChecked(True)

    def is_new(self) -> bool:
        """Return whether a new model is trained."""
        return self.newRadio.isChecked()

    @property
    def origin(self) -> Start:
        """What the training starts from."""
        return self._starts[self.is_new()]

    @property
    def sources(self) -> Union[ModelInputs, NewInputs]:
        """The modalities and their rasters."""
        return self.origin.inputs

    def _follow_start(self) -> None:
        """Show what belongs to what the training starts from."""
        new = self.is_new()
        self.inputs.setVisible(not new)
        self.new_inputs.setVisible(new)
        self.classesGroup.setVisible(not new)
        self.training.begin(new)
        self.start_button.setText(tr("Train") if new else tr("Fine-tune"))
        if new:
            self.new_inputs.begin()
        self._plan.forget()
        self._follow_card()
        self.refresh()

    def _follow_card(self) -> None:
        """Follow the choice of another checkpoint, or of none."""
        if self.is_new():
            self.labels.set_card(self.new_inputs.card)
            say(self.lineageLabel, "")
            self.parentButton.hide()
            self._propose_output()
            return
        self.labels.set_card(self.card)
        self.classes.set_card(self.card)
        say(self.lineageLabel, lineage_words(self.card) if self.card else "", WARNING_COLOR)
        combo = self.inputs.checkpointCombo
        paths = [combo.itemData(index) for index in range(combo.count())]
        self.state.parent = find_parent(self.card, paths) if self.card else ""
        self.parentButton.setVisible(bool(self.state.parent))
        self.parentButton.setToolTip(self.state.parent)
        self._propose_output()

    def _propose_output(self) -> None:
        """Propose a name for the new checkpoint, unless the analyst has chosen one."""
        base = "" if self.is_new() else self.inputs.checkpoint()
        if (base or self.is_new()) and self.outputWidget.filePath() == self.state.output:
            self.state.output = default_output(base)
            self.outputWidget.setFilePath(self.state.output)

    def refresh(self) -> None:
        """Show what follows from the choices: cover, classes, whether the plan still holds, whether it can start."""
        self.sources.show_cover(self.sources.grid())
        self.split.set_labels(self.labels.layer())
        words = self.classes.words()
        title = tr("Classes of the checkpoint")
        self.classesGroup.setTitle(f"{title}: {words}" if words else title)
        say(self.outputLabel, "")
        there = [os.path.basename(path) for path in self._written() if os.path.exists(path)]
        if there:
            say(self.outputLabel, tr("Will be replaced: {}.").format(", ".join(there)), WARNING_COLOR)
        problem = self._problem()
        fresh = self._is_fresh()
        self._plan.show_state(fresh, self.isVisible())
        self.planButton.setEnabled(not problem and self.task is None)
        self.planButton.setToolTip(problem or tr("Trains nothing"))
        ready = tr("The plan is shown above.") if fresh else tr("The split and the plan are shown first.")
        self.show_readiness(problem or self._output_problem(), ready)

    def _problem(self) -> str:
        """Return why nothing can be planned yet, or an empty string."""
        classes = self.origin.class_problem()
        found = self.sources.problem() or self.labels.problem(self.sources.grid())
        return found or self.split.problem() or self.training.problem() or classes

    def _output_problem(self) -> str:
        """Return why the new checkpoint cannot be written, or an empty string."""
        path = self._output()
        if not path:
            return tr("Name the file of the new checkpoint.")
        if path == self.state.output and not os.path.isdir(os.path.dirname(path)):
            return ""  # made when the training starts
        read = [*self.sources.layers().values(), *filter(None, [self.labels.layer()])]
        base = [] if self.is_new() else [self.inputs.checkpoint()]
        return output_problem(path, [*base, *(layer.source() for layer in read)])

    def _output(self) -> str:
        return output_path(self.outputWidget.filePath(), ".safetensors")

    def _written(self) -> list[str]:
        """Return all files that a training writes: checkpoint, report and, where asked for, adapters."""
        stem = os.path.splitext(self._output())[0]
        if not stem:
            return []
        return [self._output(), stem + ".html", stem + ".forest.safetensors", *self.origin.beside(stem)]

    def _key(self) -> str:
        """Return all that decides the plan, as text."""
        return json.dumps([self.is_new(), self.origin.key(), self._form.key(), self.deviceCombo.currentData()])

    def _is_fresh(self) -> bool:
        """Return whether the plan that is shown is that of the present choices."""
        return self.plan_view.plan is not None and not self._problem() and self.state.planned == self._key()

    def plan(self) -> None:
        """Have the plan made and shown; nothing is trained."""
        self._begin(Doing.PLANNING)

    def start(self) -> None:
        """Train as the plan says; one that is not there yet, or no longer holds, is made and shown first."""
        self._begin(Doing.TRAINING if self._is_fresh() else Doing.PLANNING_TO_TRAIN)

    def _begin(self, doing: Doing) -> None:
        """Start the job under its own name."""
        self.state.doing = doing
        self._title = self.origin.titles()[not doing.plans]
        super().start()

    def _job(self, exports: Exports) -> Union[FinetuneJob, TrainJob]:
        """Return the job that the page describes: to plan, or to train."""
        output = self._output()
        job = self.origin.job(exports, output, self.deviceCombo.currentData(), self.state.doing.plans)
        if job.plan_only:
            self.state.asked = self._key()
            return job
        try:
            os.makedirs(os.path.dirname(output), exist_ok=True)
        except OSError as problem:
            raise disk_error(problem, output) from None
        return job

    def propose_offsets(self, offsets: dict[str, float], why: str) -> None:
        """Offer in the rows what a run has found is to be added, by name of modality, with the engine's reason."""
        self.sources.propose_offsets(offsets, why)

    def _show_running(self, running: bool) -> None:
        """Show the progress, and curves where it trains; close the form meanwhile."""
        super()._show_running(running)
        self.planButton.setEnabled(not running)
        self.keepButton.setVisible(not self.state.doing.plans)
        self.keepButton.setEnabled(False)
        if not running:
            return
        if self.state.doing.plans:
            self.progressLabel.setText(tr("Reading labels and rasters…"))
            return
        self.progressLabel.setText(self.origin.begun_words())
        self.curves.clear()
        self.curvesGroup.show()
        self.resultGroup.hide()
        self._scroller.scroll_to(self.curvesGroup)

    def _show_event(self, event: dict[str, Any]) -> None:
        """Show what the engine says; after each epoch the curves grow."""
        super()._show_event(event)
        if event["event"] == "metrics":
            self.curves.add(event)
            if len(self.curves.loss) == 1:  # the legend has come, so that the curves are higher now
                self._scroller.scroll_to(self.curvesGroup)
            ending = self.state.doing is Doing.CONCLUDING or not self.cancelButton.isEnabled()
            self.keepButton.setEnabled(event.get("best_epoch", 0) > 0 and not ending)
            if "probabilities" in event:
                self.plan_view.show_measured(event["probabilities"])

    def _warn(self, text: str) -> None:
        """Tell a warning, unless it stands in the plan, where it is read."""
        if not self.state.doing.plans and text not in (self.plan_view.plan or {}).get("warnings", ()):
            super()._warn(text)

    def keep_best(self) -> None:
        """End the training with the best checkpoint so far; the result follows."""
        if self.task is not None:
            self.state.doing = Doing.CONCLUDING
            self.keepButton.setEnabled(False)
            self.progressLabel.setText(tr("Stopping; the best epoch so far is measured and written…"))
            self.task.conclude()

    def _conclude(self, result: dict[str, Any]) -> None:
        """Show a plan and go on to train where that was asked and nothing speaks against it; or show the result."""
        if not self.state.doing.plans:
            super()._conclude(result)
            return
        try:
            self._show_plan(result)
        finally:
            self._end_task()
        self.planned.emit(result)
        if self.state.doing is Doing.PLANNING_TO_TRAIN and self._is_fresh():
            if result["warnings"]:
                say(self.summaryLabel, tr("Read the warnings of the plan; the next click trains."), WARNING_COLOR)
            else:
                self.start()

    def _show_plan(self, plan: dict[str, Any]) -> None:
        """Show a plan on the page and on the map."""
        self.state.planned = self.state.asked
        self.plan_view.show_plan(plan, list(self.sources.layers()), editable=not self.is_new())
        self._draw_split()
        self._scroller.scroll_to(self.planGroup)

    def _draw_split(self) -> None:
        """Draw the split of a plan that still holds, while this page is seen."""
        if self.isVisible() and self._is_fresh():
            self._plan.draw()

    def _finish(self, job: Union[FinetuneJob, TrainJob], result: dict[str, Any]) -> None:
        """Show what was gained and what can be done with it."""
        self.state.result, self.state.report = result["checkpoint"], result.get("report") or ""
        self.state.forest = (result.get("forest") or {}).get("checkpoint", "")
        for path in filter(None, (self.state.forest, self.state.result)):
            Settings().add_recent_checkpoint(path)
        shown = as_comparison(result) if isinstance(job, TrainJob) else result
        self.comparison.show_result(shown)
        say(self.resultLabel, self.origin.words(job, shown))
        self.reportButton.setEnabled(bool(self.state.report))
        self.forestButton.setVisible(bool(self.state.forest))
        self.resultGroup.show()
        say(self.summaryLabel, tr("Done: {}").format(os.path.basename(self.state.result)))
        self._propose_output()
        self._scroller.scroll_to(self.resultGroup)

    def _fail(self, problem: LacunaError) -> None:
        """Say what went wrong, and what is left of a training."""
        job = self.task.job if self.task is not None else None
        kept = job.output + ".part" if isinstance(job, (FinetuneJob, TrainJob)) and not self.state.doing.plans else ""
        unfinished = os.path.exists(kept)
        super()._fail(problem)
        words = problem.text
        if unfinished:
            words += " " + tr("What was learned is kept: the same choices go on where it stopped.")
        say(self.summaryLabel, words, WARNING_COLOR)

    def _open_report(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(self.state.report))

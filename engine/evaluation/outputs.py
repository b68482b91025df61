# SPDX-License-Identifier: GPL-2.0-or-later
"""What an evaluation leaves behind: the report, its figures as JSON, and the scores in the card of the checkpoint."""

from __future__ import annotations

import os
from typing import Any

from ..checkpoint.card import Card
from ..checkpoint.card_file import read_card
from ..checkpoint.store import rewrite_card, sha256
from ..errors import LacunaError
from ..events import Reporter
from ..jobs import EvaluateJob
from ..raster.writer import replace, stage_json
from ..report.evaluation import evaluation_page
from ..runtime.outputs import check_existing, check_folder, check_outputs, stage_text

# Too long for a card.
_DETAILS = ("confusion", "reliability")


def check_evaluation_outputs(job: EvaluateJob) -> None:
    """Raise LacunaError unless report and card can be written; codes as for `runtime.outputs.check_outputs`."""
    written = [path for path in (job.report, job.record_path()) if path is not None]
    inputs = [job.checkpoint, job.labels, job.manifest, *(spec.path for spec in job.modalities.values())]
    check_outputs(written, inputs, job.overwrite)
    if job.update_card:
        read_card(job.checkpoint)
        check_folder(os.path.realpath(job.checkpoint))
        check_existing(job.checkpoint, overwrite=True)


def write_results(
    job: EvaluateJob, card: Card, words: str, result: dict[str, Any], reporter: Reporter
) -> dict[str, Any]:
    """Write the card and the report that the job asks for.

    Args:
        job: the request.
        card: that of the checkpoint when it was measured.
        words: what it was measured on.
        result: what was found.
        reporter: told what was written.

    Returns:
        The result, with `warnings` and what was written.

    Raises:
        LacunaError: `checkpoint-changed`; `disk-full` and the like.
    """
    if job.update_card:
        _update_card(job.checkpoint, card, result, words, reporter)
        result["checkpoint"]["updated_sha256"] = sha256(job.checkpoint)
    result["warnings"] = list(reporter.warnings)
    record = job.record_path()
    if job.report is not None and record is not None:
        result["report"] = job.report
        staged = stage_text(job.report, evaluation_page(result))
        replace(stage_json(record, result), record)
        replace(staged, job.report)
        reporter.info(f"Wrote {job.report}.")
    return result


def _update_card(path: str, card: Card, result: dict[str, Any], words: str, reporter: Reporter) -> None:
    """Put the scores of all scenarios into the card of the checkpoint at `path`."""
    current = read_card(path)
    if current.to_dict() != card.to_dict():
        text = f"The card of {path} has changed while the checkpoint was measured."
        raise LacunaError("checkpoint-changed", text, "Measure again; nothing was written.")
    measured = [set(case["available"]) for case in result["cases"]]
    # One sentence of the card says what all scores were measured on, so those of other scenarios cannot stay.
    gone = [" + ".join(item["available"]) for item in card.scores if set(item["available"]) not in measured]
    if gone:
        reporter.warn(f"The card's scores of {'; '.join(gone)} were measured on other data and are removed.")
    current.scores = [{key: case[key] for key in case if key not in _DETAILS} for case in result["cases"]]
    current.scores_on = words
    rewrite_card(path, current)
    reporter.info(f"Wrote the scores of {len(current.scores)} scenarios into the card of {path}.")

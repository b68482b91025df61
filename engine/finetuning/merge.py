# SPDX-License-Identifier: GPL-2.0-or-later
"""The work behind `lacuna merge`: the fine-tuned checkpoint again, from its parent and an adapter file."""

from __future__ import annotations

from typing import Any

from ..checkpoint.store import save
from ..events import Reporter
from ..jobs import MergeJob
from ..runtime.outputs import check_outputs
from .lora import apply_adapters


def merge(job: MergeJob, reporter: Reporter) -> dict[str, Any]:
    """Write the checkpoint that `job` asks for; on the device that trained, it has the bits of the one written then.

    Returns:
        The result: `checkpoint` (its path) and `parents` (SHA-256 of the checkpoints that it comes from).

    Raises:
        LacunaError: `bad-adapter`, the adapters are none or belong to another checkpoint; `output-is-input`,
            `output-folder`, `output-exists`; a file cannot be read or written.
    """
    check_outputs([job.output], [job.checkpoint, job.adapters], job.overwrite)
    card, model = apply_adapters(job.checkpoint, job.adapters)
    reporter.check()
    save(job.output, model, card)
    reporter.info(f"Wrote {job.output}.")
    return {"checkpoint": job.output, "parents": card.parents}

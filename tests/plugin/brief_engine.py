# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine with small forests and few steps of the detail path: `python brief_engine.py FOLDER/engine worker`.

For trainings inside QGIS that are about something else: what both are worth in full, the engine's own tests measure.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

BRIEF = {
    "lacuna.engine.training.detail_path": {"STEPS": (150, 150), "TAUGHT_STEPS": (150, 150)},
    "lacuna.engine.training.forest": {"TREES": 10},
}


def main() -> int:
    """Run the engine in the folder that is named first, with the other arguments; return its exit status."""
    folder = Path(sys.argv.pop(1))
    specification = importlib.util.spec_from_file_location("entry", folder / "__main__.py")
    entry = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(entry)
    entry._load_package()
    run = importlib.import_module("lacuna.engine.run")
    load = run._load

    def load_briefly(kind):
        """Shorten what a job has loaded; nothing is loaded for it."""
        work = load(kind)
        for name, values in BRIEF.items():
            for key, value in values.items() if name in sys.modules else ():
                assert hasattr(sys.modules[name], key)
                setattr(sys.modules[name], key, value)
        return work

    run._load = load_briefly
    return importlib.import_module("lacuna.engine.cli").main()


if __name__ == "__main__":
    sys.exit(main())

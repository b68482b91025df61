# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine as a program: `python -m lacuna.engine ...`, or `python FOLDER/engine ...` from a folder of any name.

The second way needs no installation: the folder above this one is loaded as the package `lacuna`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys


def _load_package() -> None:
    """Load the folder above `engine/` as the package `lacuna`, before any other of that name."""
    engine = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(engine)
    # Run by path, Python puts engine/ first on the path: its modules would hide others of the same name.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != engine]
    specification = importlib.util.spec_from_file_location(
        "lacuna", os.path.join(root, "__init__.py"), submodule_search_locations=[root]
    )
    if specification is None or specification.loader is None:
        raise ImportError(f"{root} is no package")
    package = importlib.util.module_from_spec(specification)
    sys.modules["lacuna"] = package
    specification.loader.exec_module(package)


def main() -> int:
    """Run the command line and return its exit status."""
    if sys.version_info < (3, 10):
        found = ".".join(map(str, sys.version_info[:2]))
        print(f"lacuna: the engine needs Python 3.10 or later; {sys.executable} is {found}.", file=sys.stderr)
        return 1
    if not __package__:
        _load_package()
        return importlib.import_module("lacuna.engine.cli").main()
    return importlib.import_module(".cli", __package__).main()


if __name__ == "__main__":
    sys.exit(main())

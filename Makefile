# SPDX-License-Identifier: GPL-2.0-or-later
# The commands of a developer. On a fresh Debian 12 `make demo` and `make test` install what they need; see CONTRIBUTING.md.

.DEFAULT_GOAL := help
.PHONY: help demo test test-engine test-plugin test-quick test-cpus lint compat compat-trixie compat-sid compat-qt6 checkpoints checkpoint evidence \
        package clean setup engine qgis

PYTHON := .venv/bin/python
QGIS_TEST := QT_QPA_PLATFORM=offscreen .venv-qgis/bin/pytest

help: ## print this list
	@sed -n 's/^\([a-z0-9 -]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

setup: ## install what is missing, and do no more
	@tools/setup.sh engine qgis-tests

demo: qgis ## classify the sample scene inside QGIS, four times; maps and a picture go to demo-output/
	@$(PYTHON) tools/demo.py

test: setup ## run every test and check; the engine's tests and the plugin's run at once
	@tools/test.sh
	@$(MAKE) --no-print-directory lint

test-quick: setup ## run the tests that take little time, the engine's and the plugin's at once
	@tools/test.sh -m "not slow"

test-engine: engine ## run the engine's tests and those of the zip alone (no QGIS needed)
	$(PYTHON) -m pytest tests/engine tests/test_package.py tests/test_qt6.py

test-plugin: setup ## run the plugin's tests alone, inside QGIS, without a screen
	$(QGIS_TEST) tests/plugin

test-cpus: engine ## run everything numeric with the kernels of other processors; takes four times as long
	@tools/test_cpus.sh

lint: engine ## check style, common faults and types
	$(PYTHON) -m ruff check .
	@mkdir -p .cache/package && ln -sfn ../.. .cache/package/lacuna
	$(PYTHON) -m mypy

compat: ## try Debian 13, Debian sid and Qt 6; the first two as root, in chroots under .cache/compat
	@tools/compat.sh trixie sid qt6

compat-trixie compat-sid compat-qt6: compat-%: ## try one of them
	@tools/compat.sh $*

checkpoints: engine ## make the bundled checkpoints again, as docs/bundled-checkpoint.md and its sister pages tell; that of trees needs DATA=FOLDER of its plots
	$(PYTHON) tools/checkpoints/landcover.py
	$(PYTHON) tools/checkpoints/dynamic_world.py
ifdef DATA
	$(PYTHON) tools/checkpoints/tree_genus.py --data "$(DATA)"
else
	@echo "tree-genus-rgb-hsi-chm is left as it is: give the folder of its plots, https://doi.org/10.5281/zenodo.3934932, as DATA=FOLDER."
endif

checkpoint: checkpoints

evidence: engine ## measure Lacuna against forest, boosting and plain networks on data in DATA=FOLDER; takes many hours, goes on where it stopped
	$(PYTHON) -m lacuna.tests.benchmarks.evidence.run --data "$(DATA)"

package: engine ## build dist/lacuna-VERSION.zip for QGIS's plugin site
	$(PYTHON) tools/package.py

clean: ## remove what was built, and keep the environments
	rm -rf build dist demo-output .cache .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

engine:
	@tools/setup.sh engine

qgis:
	@tools/setup.sh engine qgis

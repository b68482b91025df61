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

test: setup test-engine test-plugin lint ## run every test and check

test-engine: engine ## run the engine's tests and those of the zip (no QGIS needed)
	$(PYTHON) -m pytest tests/engine tests/test_package.py tests/test_qt6.py

test-plugin: setup ## run the plugin's tests inside QGIS, without a screen
	$(QGIS_TEST) tests/plugin

test-quick: setup ## run the tests that take little time, the engine's and the plugin's at once
	@said=$$(mktemp); trap 'kill $$plugin 2>/dev/null; rm -f "$$said"' EXIT; trap 'exit 130' INT TERM; \
	OMP_NUM_THREADS=1 $(QGIS_TEST) -m "not slow" tests/plugin >"$$said" 2>&1 & plugin=$$!; \
	echo "The plugin's tests run meanwhile; what they say follows."; engine=0; \
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m "not slow" tests/engine tests/test_package.py tests/test_qt6.py || engine=$$?; \
	wait $$plugin; qgis=$$?; cat "$$said"; \
	echo "Exit status of the engine's tests: $$engine, of the plugin's: $$qgis"; [ "$$engine$$qgis" = 00 ]

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

checkpoints: engine ## make the bundled checkpoints again, as docs/bundled-checkpoint.md and its sister pages tell
	$(PYTHON) tools/checkpoints/landcover.py
	$(PYTHON) tools/checkpoints/dynamic_world.py

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

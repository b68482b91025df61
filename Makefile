# SPDX-License-Identifier: GPL-2.0-or-later
# The commands of a developer. On a fresh Debian 12 `make demo` and `make test` install what they need; see CONTRIBUTING.md.

.DEFAULT_GOAL := help
.PHONY: help demo test test-engine test-plugin test-quick lint checkpoint package clean setup engine qgis

PYTHON := .venv/bin/python
QGIS_TEST := QT_QPA_PLATFORM=offscreen .venv-qgis/bin/pytest

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

setup: ## install what is missing, and do no more
	@tools/setup.sh engine qgis-tests

demo: qgis ## classify the sample scene inside QGIS, four times; maps and a picture go to demo-output/
	@$(PYTHON) tools/demo.py

test: setup test-engine test-plugin lint ## run every test and check

test-engine: engine ## run the engine's tests and those of the zip (no QGIS needed)
	$(PYTHON) -m pytest tests/engine tests/test_package.py

test-plugin: setup ## run the plugin's tests inside QGIS, without a screen
	$(QGIS_TEST) tests/plugin

test-quick: setup ## run the tests that take less than ten seconds each
	$(PYTHON) -m pytest -m "not slow" tests/engine tests/test_package.py
	$(QGIS_TEST) -m "not slow" tests/plugin

lint: engine ## check style, common faults and types
	$(PYTHON) -m ruff check .
	@mkdir -p .cache/package && ln -sfn ../.. .cache/package/lacuna
	$(PYTHON) -m mypy

checkpoint: engine ## train the bundled checkpoint again, as docs/bundled-checkpoint.md tells
	$(PYTHON) tools/checkpoint.py

package: engine ## build dist/lacuna-VERSION.zip for QGIS's plugin site
	$(PYTHON) tools/package.py

clean: ## remove what was built, and keep the environments
	rm -rf build dist demo-output .cache .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

engine:
	@tools/setup.sh engine

qgis:
	@tools/setup.sh engine qgis

#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs the engine's tests and the plugin's at once, one core each; arguments go to both pytests. What the plugin's say is
# shown when the engine's have ended.
set -uo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
said=$(mktemp)
trap 'kill "${plugin:-}" 2>/dev/null; rm -f "$said"' EXIT
trap 'exit 130' INT TERM
QT_QPA_PLATFORM=offscreen .venv-qgis/bin/pytest "$@" tests/plugin >"$said" 2>&1 &
plugin=$!
echo "The plugin's tests run meanwhile; what they say follows."
.venv/bin/python -m pytest "$@" tests/engine tests/test_package.py tests/test_qt6.py
engine=$?
wait "$plugin"
qgis=$?
cat "$said"
echo "Exit status of the engine's tests: $engine, of the plugin's: $qgis"
[ "$engine$qgis" = 00 ]

#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs all tests in two halves at once, one core each; arguments go to every pytest. One half is most of the engine's,
# the other the plugin's and those of the engine's training, which takes as long. What the second says is shown last.
set -uo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
said=$(mktemp)
trap 'kill "${other:-}" 2>/dev/null; rm -f "$said"' EXIT
trap 'exit 130' INT TERM

other_half() {
    # A signal reaches the pytest that runs, not only this shell.
    trap 'kill "${running:-}" 2>/dev/null; exit 130' TERM
    local failed=0
    QT_QPA_PLATFORM=offscreen .venv-qgis/bin/pytest "$@" tests/plugin &
    running=$!
    wait "$running" || failed=1
    .venv/bin/python -m pytest "$@" tests/engine/training &
    running=$!
    wait "$running" || failed=1
    return "$failed"
}

other_half "$@" >"$said" 2>&1 &
other=$!
echo "The plugin's tests and those of the training run meanwhile; what they say follows."
.venv/bin/python -m pytest "$@" --ignore tests/engine/training tests/engine tests/test_package.py tests/test_qt6.py
first=$?
wait "$other"
second=$?
cat "$said"
echo "Exit status of the first half: $first, of the second: $second"
[ "$first$second" = 00 ]

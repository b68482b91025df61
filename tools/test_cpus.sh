#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Run everything numeric with the kernels of other processors, once for each of four settings of the libraries under
# torch. Arguments: what pytest shall run, in place of all folders of tests/engine that use torch.
# What pytest says is kept in .cache/cpus; one line for each setting comes at the end.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
settings='MKL_CBWR=COMPATIBLE MKL_ENABLE_INSTRUCTIONS=SSE4_2 ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2'
logs=.cache/cpus

if [ $# = 0 ]; then
    # Rasters are read by GDAL and numpy alone; the files beside the folders are about jobs and processes.
    # shellcheck disable=SC2046  # a list of folders, none with a blank in its name
    set -- $(find tests/engine -mindepth 1 -maxdepth 1 -type d ! -name raster ! -name __pycache__ | sort)
fi
mkdir -p "$logs"
: >"$logs/summary"
failed=0
for setting in $settings; do
    log=$logs/${setting%%=*}.log
    printf 'test-cpus: %s, see %s\n' "$setting" "$log"
    if env "$setting" "$python" -m pytest -q "$@" >"$log" 2>&1; then
        result=passed
    else
        result=FAILED failed=1
        tail -n 40 "$log"
    fi
    printf '%-36s %s: %s\n' "$setting" "$result" "$(tail -n 1 "$log")" >>"$logs/summary"
done
cat "$logs/summary"
exit "$failed"

#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Prepare this checkout. Arguments, one or more:
#   engine       makes .venv: torch and the engine, no QGIS
#   qgis         installs QGIS from Debian's packages
#   qgis-tests   the same, and makes .venv-qgis: QGIS's own Python with pytest
#   qt6          makes .cache/compat/qt6: PyQt6 with pytest, for tools/compat.sh
# What is already there is left as it is.
set -eu
cd "$(dirname "$0")/.."

python=/usr/bin/python3
torch_index=${LACUNA_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# Print those of the named Debian packages that are not installed.
missing_packages() {
    for package; do
        case $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) in
            ?i*) ;;
            *) printf ' %s' "$package" ;;
        esac
    done
}

# Install the named Debian packages, if any is missing, as root or through sudo.
need_packages() {
    command -v dpkg-query >/dev/null || {
        say "this is not Debian or Ubuntu; it is taken for granted that these are there: $*"
        return 0
    }
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif command -v sudo >/dev/null; then
        sudo=sudo
    else
        die "these Debian packages are missing:$missing" \
            "You are not root and there is no sudo. As root, run: apt-get install$missing" \
            "Then run the same command again."
    fi
    say "installing Debian packages:$missing"
    # shellcheck disable=SC2086  # the list of packages is meant to be split
    {
        $sudo apt-get -o DPkg::Lock::Timeout=300 -qq update &&
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq -y \
                --no-install-recommends install $missing
    } || die "apt-get could not install:$missing" "Read its message above, mend the cause, run the same command again."
}

# Say what an environment must agree with: where it is, which Python it is of, what is to be in it.
place() { printf '%s %s' "$(pwd -P)" "$($python -V)"; }
contents() { cat pyproject.toml tools/setup.sh tools/constraints.txt | sha256sum | cut -d ' ' -f 1; }

# Make or mend environment $1 with the function $2; the remaining arguments go to `python -m venv`.
# Its file `lacuna-setup` is written last, so an environment without it is half made and is made afresh.
need_environment() {
    folder=$1 fill=$2
    shift 2
    state=$folder/lacuna-setup
    if "$folder/bin/python" -c '' 2>/dev/null && [ -e "$state" ] && [ "$(sed -n 1p "$state")" = "$(place)" ]; then
        [ "$(sed -n 2p "$state")" != "$(contents)" ] || return 0
        say "bringing $folder up to date"
        rm "$state"
    else
        say "making $folder"
        rm -rf "$folder"
        "$python" -m venv "$@" "$folder"
    fi
    $fill "$folder/bin/python" ||
        die "pip could not fill $folder; its message stands above." "Once mended, run the same command again."
    printf '%s\n%s\n' "$(place)" "$(contents)" >"$state"
}

pip_install() {
    interpreter=$1
    shift
    "$interpreter" -m pip install --quiet --disable-pip-version-check --constraint tools/constraints.txt "$@"
}

# The index of CPU wheels saves gigabytes of CUDA libraries; where it cannot be reached, pip's own indexes must do.
fill_engine() {
    if "$1" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=15)' "$torch_index/torch/" 2>/dev/null; then
        pip_install "$1" --extra-index-url "$torch_index" torch || return 1
    else
        say "$torch_index cannot be reached; torch comes from pip's own indexes"
        pip_install "$1" torch || return 1
    fi
    pip_install "$1" --editable '.[dev]'
}

fill_qgis() { pip_install "$1" pytest pytest-qgis pytest-qt pytest-timeout; }

fill_qt6() { pip_install "$1" PyQt6 pytest pytest-qt pytest-timeout; }

check_python() {
    [ -x "$python" ] || die "$python is missing." "Install Python 3.10 or later with its venv module there."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$python is $("$python" -V); the engine needs Python 3.10 or later." "Use Debian 12, Ubuntu 22.04 or later."
}

check_qgis() {
    "$python" -c 'import qgis.core' 2>/dev/null ||
        die "$python cannot import qgis." "Install QGIS 3.22 or later with its Python bindings."
}

[ $# -gt 0 ] || die "say what to prepare: engine, qgis, qgis-tests or qt6"
# All packages are asked for at once, so that there is one question for a password and one answer for a person without one.
packages='python3 python3-venv'
for part; do
    case $part in
        engine) ;;
        qgis | qgis-tests) packages="$packages qgis python3-qgis qgis-providers" ;;
        # What the wheels of PyQt6 take from the system.
        qt6) packages="$packages libegl1 libgl1 libfontconfig1 libglib2.0-0 libxkbcommon0 libdbus-1-3" ;;
        *) die "unknown part $part; known: engine, qgis, qgis-tests, qt6" ;;
    esac
done
# shellcheck disable=SC2086  # the list of packages is meant to be split
need_packages $packages
check_python
for part; do
    case $part in
        engine) need_environment .venv fill_engine ;;
        qgis) check_qgis ;;
        qgis-tests) check_qgis && need_environment .venv-qgis fill_qgis --system-site-packages ;;
        qt6) mkdir -p .cache/compat && need_environment .cache/compat/qt6 fill_qt6 ;;
    esac
done

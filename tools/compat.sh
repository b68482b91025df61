#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Try this checkout with other versions of QGIS, Python and Qt than this system's. Arguments, one or more:
#   trixie   the plugin's tests in Debian 13, with Debian's own packages of QGIS, torch and rasterio, in a chroot
#   sid      the same in Debian's development suite
#   qt6      the forms, and the names from Qt, under PyQt6 from pip's indexes
# What follows a `--` goes to pytest in place of the tests that are usual, such as `-- -x tests/engine`.
# Everything lies in .cache/compat; what is already there is used again. LACUNA_DEBIAN_MIRROR names another mirror.
set -eu
cd "$(dirname "$0")/.."

place=.cache/compat
python=/usr/bin/python3
system='qgis python3-qgis qgis-providers python3-venv'
tests='python3-pytest python3-pytestqt python3-pytest-timeout python3-hypothesis python3-pil'
engine='python3-torch python3-rasterio python3-safetensors python3-pyogrio python3-shapely python3-sklearn'

say() { printf 'compat: %s\n' "$*"; }

die() {
    printf 'compat: %s\n' "$@" >&2
    exit 1
}

# In namespaces of our own: what is mounted and started for a chroot is gone when this script ends, however it ends.
isolate() {
    [ -z "${LACUNA_COMPAT_INSIDE:-}" ] || return 0
    [ "$(id -u)" = 0 ] || die "trixie and sid need root: a chroot is made and entered." "Run: sudo make compat"
    unshare --mount --pid --fork --mount-proc true 2>/dev/null ||
        die "this system does not let root mount file systems in a namespace, as in a container without privileges." \
            "Run this on the machine itself, in a virtual machine or in a privileged container."
    export LACUNA_COMPAT_INSIDE=1
    exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$0" "$@"
}

# debootstrap, and a pip of this system's own for what Debian does not have.
need_tools() {
    ! command -v debootstrap >/dev/null || ! $python -c 'import ensurepip' 2>/dev/null || return 0
    command -v apt-get >/dev/null ||
        die "debootstrap or $python with its venv module is missing; install both, and Debian's archive keys."
    say "installing debootstrap and python3-venv"
    {
        apt-get -o DPkg::Lock::Timeout=300 -qq update &&
            DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq -y --no-install-recommends \
                install debootstrap debian-archive-keyring python3-venv
    } || die "apt-get could not install debootstrap and python3-venv; its message stands above."
}

# Print this system's own mirror of Debian, if apt knows one.
mirror() {
    if [ -n "${LACUNA_DEBIAN_MIRROR:-}" ]; then
        echo "$LACUNA_DEBIAN_MIRROR"
        return
    fi
    # shellcheck disable=SC2016  # apt fills in the variable
    found=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -E '^https?://.*/debian/?$' | head -n 1) || true
    echo "${found:-http://deb.debian.org/debian}"
}

# Hand on to the chroot $1 how this system reaches packages: proxies, checks of dates, certificates.
hand_on_network() {
    apt-config dump | grep -iE '^Acquire::(Check|Retries|ForceIPv|https?|Max-FutureTime)' | grep -vi 'AutoDetect' \
        >"$1/etc/apt/apt.conf.d/99host" || true
    cp -L /etc/resolv.conf "$1/etc/resolv.conf"
    mkdir -p "$1/etc/ssl/certs" "$1/usr/local/share/ca-certificates"
    [ ! -e /etc/ssl/certs/ca-certificates.crt ] ||
        cp -L /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"
    [ ! -d /usr/local/share/ca-certificates ] ||
        cp -RL /usr/local/share/ca-certificates/. "$1/usr/local/share/ca-certificates/"
}

# Run a command in the chroot $1; of this shell's variables only those that name a proxy are handed on.
inside() {
    root=$1
    shift
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        ${no_proxy:+no_proxy="$no_proxy"} QT_QPA_PLATFORM=offscreen \
        LACUNA_TEST_PYTHON=/usr/bin/python3 ${OMP_NUM_THREADS:+OMP_NUM_THREADS="$OMP_NUM_THREADS"} \
        chroot "$root" "$@"
}

mount_into() {
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
}

# Fetch pytest-qgis, which Debian does not have, with this system's pip and unpack it: it is Python alone.
add_pytest_qgis() {
    wheels=$place/wheels
    rm -rf "$wheels"
    $python -m venv "$wheels" &&
        "$wheels/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$wheels" pytest-qgis &&
        $python -m zipfile -e "$wheels"/pytest_qgis-*.whl "$1/usr/lib/python3/dist-packages"
}

fill_chroot() {
    # shellcheck disable=SC2086  # the lists of packages are meant to be split
    {
        hand_on_network "$1" &&
            printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d" && chmod +x "$1/usr/sbin/policy-rc.d" &&
            inside "$1" apt-get -qq update &&
            inside "$1" apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install $system $tests $engine &&
            inside "$1" apt-get clean &&
            add_pytest_qgis "$1"
    } >>"$2" 2>&1
}

# Make the chroot of suite $1. Its file `lacuna-compat` is written last; without it, it is half made and made afresh.
need_chroot() {
    root=$place/$1 log=$place/$1-setup.log
    contents="$system $tests $engine"
    if [ "$(cat "$root/lacuna-compat" 2>/dev/null)" = "$contents" ]; then
        mount_into "$root"
        return 0
    fi
    say "$1: making $root; this takes some minutes and 4 GB"
    rm -rf --one-file-system "$root"
    mkdir -p "$root"
    if debootstrap --variant=minbase "$1" "$root" "$(mirror)" >"$log" 2>&1 && mount_into "$root" &&
        fill_chroot "$root" "$log"; then
        printf '%s\n' "$contents" >"$root/lacuna-compat"
        return 0
    fi
    tail -n 15 "$log" >&2
    printf 'compat: %s\n' "$1 could not be installed; the end of $log stands above." \
        "In sid that can be Debian's own fault for some days. Once mended, run the same command again." >&2
    return 1
}

# Copy what git tracks, and what it would, into the chroot $1: tests there cannot touch this checkout.
copy_checkout() {
    rm -rf "$1/lacuna"
    mkdir "$1/lacuna"
    git -c safe.directory="$(pwd -P)" ls-files --cached --others --exclude-standard -z >"$1/lacuna-files" &&
        tar --create --null --files-from="$1/lacuna-files" --ignore-failed-read 2>/dev/null |
        tar --extract --no-same-owner --directory "$1/lacuna"
}

versions='
import sys, numpy, rasterio, torch
from qgis.core import Qgis
from qgis.PyQt.QtCore import QT_VERSION_STR
print(f"QGIS {Qgis.QGIS_VERSION.split(chr(45))[0]}, Qt {QT_VERSION_STR}, Python {sys.version.split()[0]}, "
      f"torch {torch.__version__}, rasterio {rasterio.__version__}, numpy {numpy.__version__}")
'

# Run pytest by "$@", show and keep what it says, and add one line on part $name to the summary; fail as pytest fails.
summarise() {
    log=$place/$name.log
    { "$@" 2>&1 || echo "pytest ended with $?" >"$place/$name.failed"; } | tee "$log"
    say "$name ($found): $(grep -E '(passed|failed|error).* in [0-9]' "$log" | tail -n 1 | tr -d =)" >>"$place/summary"
    [ ! -e "$place/$name.failed" ]
}

try_suite() {
    name=$1
    shift
    rm -f "$place/$name.failed"
    if ! need_chroot "$name" || ! copy_checkout "$root"; then
        say "$name: could not be set up" >>"$place/summary"
        return 1
    fi
    found=$(inside "$root" python3 -c "$versions")
    say "$name: $found"
    [ $# -gt 0 ] || set -- tests/plugin
    summarise inside "$root" sh -c 'cd /lacuna && exec python3 -m pytest -q -p no:cacheprovider "$@"' pytest "$@"
}

try_qt6() {
    name=qt6
    rm -f "$place/$name.failed"
    if ! tools/setup.sh qt6; then
        say "$name: could not be set up" >>"$place/summary"
        return 1
    fi
    found=$("$place/qt6/bin/python" -c 'from PyQt6.QtCore import PYQT_VERSION_STR as p, QT_VERSION_STR as q
print(f"PyQt {p}, Qt {q}")')
    # Beside its own tests those of the plugin that need no QGIS, but Qt.
    [ $# -gt 0 ] || set -- tests/qt6 tests/plugin/test_curves.py tests/plugin/test_comparison_table.py \
        tests/plugin/test_probability_bars.py
    summarise env QT_QPA_PLATFORM=offscreen PYTHONPATH=tests/qt6 "$place/qt6/bin/pytest" -q -p stand_ins "$@"
}

parts=
for argument; do
    case $argument in
        --) break ;;
        trixie | sid | qt6) parts="$parts $argument" ;;
        *) die "unknown part $argument; known: trixie, sid, qt6" ;;
    esac
done
[ -n "$parts" ] || die "say what to try: trixie, sid or qt6"
case $parts in
    *trixie* | *sid*)
        isolate "$@"
        need_tools
        ;;
esac
while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
[ $# -eq 0 ] || shift

mkdir -p "$place"
: >"$place/summary"
failed=
for part in $parts; do
    case $part in
        qt6) try_qt6 "$@" || failed="$failed $part" ;;
        *) try_suite "$part" "$@" || failed="$failed $part" ;;
    esac
done
cat "$place/summary"
[ -z "$failed" ] || die "failed:$failed"

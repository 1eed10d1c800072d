#!/bin/sh
# Check everything that the setup needs and list all that is missing; only then start tools/make_venv.py.
# Arguments are passed on. If the environment is up to date, exits at once.
set -u
case $0 in
*/*) cd "${0%/*}/.." || exit 1 ;;
*) cd .. || exit 1 ;;
esac

if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] && .venv/bin/python -E -S tools/make_venv.py --current "$@" 2>/dev/null; then
    exit 0
fi

# --- the folder: a virtual environment refuses a colon; CMake and make, which build Horovod, misread some of the others
case $PWD in
*[\'\"\$\;\`\\:\&\|\<\>\*]* | *[[:cntrl:]]*)
    printf "setup: %s: not supported, because the tools that build Horovod misread a path with one of %s; %s\n" "$PWD" \
        "' \" \$ ; \` \\ : & | < > *" "move the project, or clone it, to another folder" >&2
    exit 1
    ;;
esac

problems=0
debian=""
fedora=""
missing() { # what is missing, Debian's package, Fedora's package
    [ "$problems" -gt 0 ] || echo "setup: the following is missing:" >&2
    problems=$((problems + 1))
    echo "  - $1" >&2
    debian="$debian ${2:-}"
    fedora="$fedora ${3:-}"
}
have() { command -v "$1" >/dev/null 2>&1; }

# --- the machine: decord, which reads the videos, has wheels for no other
if have uname && [ "$(uname -sm)" != "Linux x86_64" ]; then
    missing "Linux on x86_64 (this is $(uname -sm)); decord has no packages for other machines"
fi

# --- Horovod: its compiler and headers are needed unless it is left out, by this command or by an earlier one
horovod=""
if [ -r .make/horovod ]; then read -r horovod <.make/horovod; fi
case " $* " in
*" --horovod none "*) horovod=none ;;
*" --horovod "*) horovod="" ;;
esac
builds() { [ "$horovod" != none ]; }

# --- Python, its venv module and its headers
python=$(. tools/python.sh)
if [ -z "$python" ]; then
    missing "Python 3.11, 3.12 or 3.13${PYTHON:+ (PYTHON=$PYTHON is not)}; if it is not on PATH: make PYTHON=/path/to/python3.11 ..." \
        "python3 python3-venv python3-dev" "python3.11 python3.11-devel"
else
    if "$python" -E -S tools/make_venv.py --current "$@" 2>/dev/null; then
        exit 0
    fi
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
        missing "Python's venv module with pip ($python can't import ensurepip)" "$version-venv" "python3-pip"
    "$python" -c 'import ssl, sqlite3, ctypes, lzma' >/dev/null 2>&1 ||
        missing "a complete Python ($python lacks one of ssl, sqlite3, ctypes, lzma)" "$version" "$version"
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    ! builds || [ -f "$headers/Python.h" ] ||
        missing "Python's headers (no $headers/Python.h), to compile Horovod" "$version-dev" "$version-devel"
fi

# --- the compiler for Horovod
compiler=${CXX:-}
if [ -z "$compiler" ]; then
    for name in c++ g++ clang++; do
        if have "$name"; then compiler=$name && break; fi
    done
fi
if ! builds; then
    :
elif [ -z "$compiler" ]; then
    missing "a C++ compiler (g++ 11 or later), to compile Horovod" "g++" "gcc-c++"
elif ! printf '#include <concepts>\n#include <span>\nint main() { return 0; }\n' |
    $compiler -std=c++20 -fsyntax-only -x c++ - >/dev/null 2>&1; then
    missing "a C++ compiler that supports C++20 ($compiler does not, or its headers are missing): g++ 11 or later" "g++" "gcc-c++"
fi
! builds || have make || missing "make, to compile Horovod" "make" "make"
have git || missing "git, which DVC needs" "git" "git"

# --- disk space and permission
if [ ! -w . ] || { [ -e .venv ] && [ ! -w .venv ]; }; then
    missing "permission to write to $(pwd)"
fi
need_mb=9000
if [ -f .venv/alpro-setup.json ]; then need_mb=3000; fi
need_mb=${ALPRO_SETUP_MB:-$need_mb} # 2 GB with a CPU build of torch, 6 GB with a CUDA build, and the installer's temporary files
if have df && have awk; then
    free_mb=$(df -Pm . 2>/dev/null | awk 'NR == 2 {print $4}')
    if [ "${free_mb:-$need_mb}" -lt "$need_mb" ]; then
        missing "$need_mb MB of free disk in $(pwd) ($free_mb are free; 3000 are enough for a CPU build of torch: ALPRO_SETUP_MB=3000 make ...)"
    fi
fi

if [ "$problems" -gt 0 ]; then
    # shellcheck disable=SC2086
    set -- $debian
    if [ $# -gt 0 ]; then
        echo "On Debian or Ubuntu: sudo apt-get install $*" >&2
        # shellcheck disable=SC2086
        set -- $fedora
        echo "On Fedora or RHEL:   sudo dnf install $*" >&2
    fi
    exit 1
fi
exec "$python" tools/make_venv.py "$@"

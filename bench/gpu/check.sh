#!/usr/bin/env bash
# Everything that needs a GPU, in one command of at most ten minutes: builds, records what single instructions do,
# compares with float64, measures beside PyTorch, runs compute-sanitizer, prints a table. Needs an NVIDIA GPU with its
# driver, nvcc, g++ and a python3 with torch and numpy; no Node, no network. Without a GPU: --dry-run.
#
#   bench/gpu/check.sh [--out FOLDER] [--dry-run] [--only STAGE,…] [--skip STAGE,…] [--minutes 10]
#
# FOLDER (default: gpu-check) gets report.json, rewritten as stages advance, conformance.json and log.txt. README.md
# beside this file says how to read them. GALVANI_PYTHON names another Python.
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${GALVANI_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "check: no $python; GALVANI_PYTHON names a Python with torch and numpy" >&2; exit 2; }
"$python" -c 'import torch, numpy' || { echo "check: $python has no torch and numpy; GALVANI_PYTHON names one that has" >&2; exit 2; }
exec "$python" -B "$here/check.py" "$@"

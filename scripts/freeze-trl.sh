#!/usr/bin/env bash
# Development only: the TRL path of `galvani freeze` for real. Plans to hold the late third of lab/checkpoints/in fixed,
# trains a few GRPO steps on questions with images, and verifies what was trained. The same checkpoint must fail the
# verification of a plan for another region, or the proof would prove nothing.
#
#   scripts/freeze-trl.sh VENV/bin/python [STEPS]
#
# VENV: pip install torch torchvision trl pillow (run with torch 2.14.1, transformers 5.24.0, trl 1.16.0; CPU, minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: scripts/freeze-trl.sh PYTHON [STEPS]}
steps=${2:-4}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
galvani() { node dist/cli/main.js "$@"; }
base=lab/checkpoints/in

galvani freeze plan "$base" --region late --engine trl --python "$python" --out "$work/late"
galvani freeze plan "$base" --region early --engine trl --python "$python" --out "$work/early"
grep -m 24 '"task": *"dsum"' lab/data/eval.jsonl |
  sed "s#\"image\": *\"#\"image\":\"$PWD/lab/data/#" > "$work/train.jsonl"

PATH="$(dirname "$python"):$PATH" OMP_NUM_THREADS=1 "$work/late/run.sh" --data "$work/train.jsonl" \
  --output "$work/trained" --steps "$steps" --learning-rate 1e-4 --generations 8 --prompts-per-step 2 --max-tokens 24 \
  --set use_cpu=true

galvani freeze verify "$base" "$work/trained" --plan "$work/late/plan.json"
if galvani freeze verify "$base" "$work/trained" --plan "$work/early/plan.json" > "$work/other.txt"; then
  echo 'freeze-trl: FAILED, a region that was trained passes as held'
  exit 1
fi
head -n 1 "$work/other.txt"
echo 'freeze-trl: the late third held, the early third moved'

#!/usr/bin/env bash
# A teacher of photographs and its student on one GPU in minutes, and both in a few small files.
#
#   benchmarks/gpu_photos.sh TASK DATA OUT [--minutes=9] [--work=FOLDER] [--toy] [--help]
#
# Started again it goes on where it stopped. PYTHON (python3) is taken from the environment.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m benchmarks.gpu_photos "$@"

#!/usr/bin/env bash
# All figures of one GPU by one command: the most important first, each written when it is done.
#
#   benchmarks/gpu.sh [--minutes=9] [--toy] [--rows=NAME,NAME] [--retry] [--out=FOLDER] [--help]
#
# Started again it does what is not there yet. PYTHON (python3) is taken from the environment.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"

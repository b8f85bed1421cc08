#!/usr/bin/env bash
# Builds the image of launch/Dockerfile for one kind of machine.
#
#   launch/docker.sh --for cuda [--tag NAME] [--dry-run]
#
#   --for KIND   cpu, cuda or tpu
#   --tag NAME   of the image (jax_bridges:KIND)
#   --dry-run    print the command
#   --help       this text
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options "for= tag=" "$@"
kind="$for"
case "$kind" in
  cpu|cuda|tpu) ;;
  *) die "--for is '$kind': choose cpu, cuda or tpu." ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run docker build --file launch/Dockerfile --build-arg "EXTRAS=$kind" --tag "${tag:-jax_bridges:$kind}" .

#!/usr/bin/env bash
# Runs the program on this machine: on all its accelerators, or on N pretended CPU devices.
#
#   launch/local.sh [--cpu-devices N] [--dry-run] -- --config=configs/inpaint.py [--workdir=DIR ...]
#
#   --cpu-devices N  pretend N devices on the CPU: to try a sharded run on a laptop
#   --dry-run        print the command
#   --help           this text
#
# PYTHON (python), JAX_COMPILATION_CACHE_DIR (~/.cache/jax_bridges) and XLA_FLAGS are taken from the
# environment. A run that was stopped (exit code 75) goes on when the same command is given again.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

devices=""
while [[ $# -gt 0 ]]; do
  case "$1" in
    --help|-h) usage; exit 0 ;;
    --dry-run) DRY_RUN=1; shift ;;
    --cpu-devices) devices="$(option "$1" "$@")"; shift 2 ;;
    --) shift; break ;;
    *) die "unknown option $1; the program's own come after --." ;;
  esac
done
[[ $# -gt 0 ]] || die "nothing to run: give -- --config=configs/inpaint.py."

settings=()
if [[ -n "$devices" ]]; then
  [[ "$devices" =~ ^[1-9][0-9]*$ ]] || die "--cpu-devices is '$devices': give a number."
  flags="--xla_force_host_platform_device_count=$devices"
  settings=(env JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$flags")
fi
run "${settings[@]}" "${PYTHON:-python}" -m jax_bridges.main --hosts=none "$@"

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

options "cpu-devices= --" "$@"
program "--config=configs/inpaint.py"

settings=()
if [[ -n "$cpu_devices" ]]; then
  [[ "$cpu_devices" =~ ^[1-9][0-9]*$ ]] || die "--cpu-devices is '$cpu_devices': give a number."
  flags="--xla_force_host_platform_device_count=$cpu_devices"
  settings=(env JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$flags")
fi
run "${settings[@]}" "${PYTHON:-python}" -m jax_bridges.main --hosts=none "${PROGRAM[@]}"

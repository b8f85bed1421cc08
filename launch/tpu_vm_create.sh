#!/usr/bin/env bash
# Asks Google Cloud for a TPU through a queued resource, and waits until it is there.
#
#   launch/tpu_vm_create.sh --name NAME --type v5litepod-16 [--spot] [--dry-run]
#
#   --name NAME        of the TPU and, with -queue, of its queued resource
#   --type TYPE        accelerator type, as v5litepod-16 (4 hosts of 4 chips) or v6e-8
#   --project PROJECT  or TPU_PROJECT in the environment
#   --zone ZONE        or TPU_ZONE in the environment
#   --runtime VERSION  of the TPU software, or TPU_RUNTIME (v2-alpha-tpuv5-lite for v5e)
#   --spot             cheaper, and may be taken away at any time: see spot_loop.sh
#   --wait MINUTES     for the TPU to be ready (0: do not wait; 60)
#   --dry-run          print the commands
#   --help             this text
#
# Needs gcloud, logged in. Exit code 3: the request failed or was not granted in time.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name="" type="" spot=() minutes=60
project="${TPU_PROJECT:-}" zone="${TPU_ZONE:-}" runtime="${TPU_RUNTIME:-v2-alpha-tpuv5-lite}"
while [[ $# -gt 0 ]]; do
  case "$1" in
    --help|-h) usage; exit 0 ;;
    --dry-run) DRY_RUN=1; shift ;;
    --spot) spot=(--spot); shift ;;
    --name) name="$(option "$1" "$@")"; shift 2 ;;
    --type) type="$(option "$1" "$@")"; shift 2 ;;
    --project) project="$(option "$1" "$@")"; shift 2 ;;
    --zone) zone="$(option "$1" "$@")"; shift 2 ;;
    --runtime) runtime="$(option "$1" "$@")"; shift 2 ;;
    --wait) minutes="$(option "$1" "$@")"; shift 2 ;;
    *) die "unknown option $1." ;;
  esac
done
need "The name" "$name" "--name NAME"
need "The accelerator type" "$type" "--type v5litepod-16"
need "The project" "$project" "--project PROJECT or TPU_PROJECT"
need "The zone" "$zone" "--zone ZONE or TPU_ZONE"
where=(--project="$project" --zone="$zone")

run gcloud compute tpus queued-resources create "$name-queue" "${where[@]}" \
  --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" ${spot[@]+"${spot[@]}"}

state() {
  gcloud compute tpus queued-resources describe "$name-queue" "${where[@]}" \
    --format='value(state.state)'
}
if [[ "$DRY_RUN" == 1 ]]; then
  run gcloud compute tpus queued-resources describe "$name-queue" "${where[@]}" \
    --format='value(state.state)'
  exit 0
fi
for ((waited = 0; waited < minutes * 60; waited += 30)); do
  now="$(state || echo UNKNOWN)"
  echo "$name-queue: $now"
  case "$now" in
    ACTIVE) exit 0 ;;
    FAILED|SUSPENDED|SUSPENDING) exit 3 ;;
  esac
  sleep 30
done
[[ "$minutes" == 0 ]] || { echo "$name-queue: not granted in $minutes minutes" >&2; exit 3; }

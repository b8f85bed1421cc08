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
#   --spot             cheaper, and may be taken away at any time: launch/sky.yaml asks again by itself
#   --wait MINUTES     for the TPU to be ready (0: do not wait; 60)
#   --dry-run          print the commands
#   --help             this text
#
# Needs gcloud, logged in. Exit code 3: the request was refused (a wrong type, no login), the same one
# would be again; 4: it was accepted, but failed later or was not granted in time.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options "name= type= project= zone= runtime= spot wait=60" "$@"
runtime="${runtime:-${TPU_RUNTIME:-v2-alpha-tpuv5-lite}}"
tpu
need "The accelerator type" "$type" "--type v5litepod-16"

run gcloud compute tpus queued-resources create "$name-queue" "${WHERE[@]}" \
  --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" ${spot:+--spot} \
  || stop 3 "the request for $name-queue was refused; see above."

state() {
  gcloud compute tpus queued-resources describe "$name-queue" "${WHERE[@]}" \
    --format='value(state.state)'
}
if [[ "$DRY_RUN" == 1 ]]; then
  run gcloud compute tpus queued-resources describe "$name-queue" "${WHERE[@]}" \
    --format='value(state.state)'
  exit 0
fi
for ((waited = 0; waited < wait * 60; waited += 30)); do
  now="$(state || echo UNKNOWN)"
  echo "$name-queue: $now"
  case "$now" in
    ACTIVE) exit 0 ;;
    FAILED|SUSPENDED|SUSPENDING) exit 4 ;;
  esac
  sleep 30
done
[[ "$wait" == 0 ]] || stop 4 "$name-queue was not granted in $wait minutes."

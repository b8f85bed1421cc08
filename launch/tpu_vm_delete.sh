#!/usr/bin/env bash
# Deletes a TPU and its queued resource, so that nothing is paid any more.
#
#   launch/tpu_vm_delete.sh --name NAME [--dry-run]
#
#   --name NAME        of the TPU
#   --project PROJECT  or TPU_PROJECT in the environment
#   --zone ZONE        or TPU_ZONE in the environment
#   --dry-run          print the command
#   --help             this text
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options "name= project= zone=" "$@"
tpu
run gcloud compute tpus queued-resources delete "$name-queue" "${WHERE[@]}" --force --quiet

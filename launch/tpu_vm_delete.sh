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

name="" project="${TPU_PROJECT:-}" zone="${TPU_ZONE:-}"
while [[ $# -gt 0 ]]; do
  case "$1" in
    --help|-h) usage; exit 0 ;;
    --dry-run) DRY_RUN=1; shift ;;
    --name) name="$(option "$1" "$@")"; shift 2 ;;
    --project) project="$(option "$1" "$@")"; shift 2 ;;
    --zone) zone="$(option "$1" "$@")"; shift 2 ;;
    *) die "unknown option $1." ;;
  esac
done
need "The name" "$name" "--name NAME"
need "The project" "$project" "--project PROJECT or TPU_PROJECT"
need "The zone" "$zone" "--zone ZONE or TPU_ZONE"
run gcloud compute tpus queued-resources delete "$name-queue" \
  --project="$project" --zone="$zone" --force --quiet

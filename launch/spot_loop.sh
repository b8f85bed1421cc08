#!/usr/bin/env bash
# Keeps a run going on spot TPUs until it is done: create, run, and after a preemption again.
#
#   launch/spot_loop.sh --name NAME --type v5litepod-16 [--tries N] [--dry-run] -- --config=... --workdir=DIR
#
#   --name, --type, --project, --zone, --runtime, --wait   as of tpu_vm_create.sh
#   --extras, --mount                                      as of tpu_vm_run.sh
#   --tries N          give up after N TPUs (100)
#   --pause SECONDS    between two of them (60)
#   --keep             do not delete the TPU when the run is done
#   --dry-run          print the commands of one round
#   --help             this text
#
# Every round goes on from the last checkpoint in the work directory. Where only the connection broke and
# the TPU is still there, it is connected to once more before another is asked for. An error of the program (exit code
# 1: a wrong setting, gradients that are not finite) would come again: it ends the loop.
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
. "$here/common.sh"

options "name= type= project= zone= runtime= wait= extras= mount= tries=100 pause=60 keep --" "$@"
tpu
need "The accelerator type" "$type" "--type v5litepod-16"
program "--config=configs/inpaint.py --workdir=DIR"
export DRY_RUN

# given NAME...: those of these options that have a value, as they were given.
given() {
  GIVEN=()
  local each
  for each in "$@"; do [[ -z "${!each}" ]] || GIVEN+=("--$each" "${!each}"); done
}
given name project zone; which=("${GIVEN[@]}")
given type runtime wait; create=(${GIVEN[@]+"${GIVEN[@]}"})
given extras mount; setup=(${GIVEN[@]+"${GIVEN[@]}"})

delete() { "$here/tpu_vm_delete.sh" "${which[@]}" || true; }

# Whether the TPU is still ours, so that what ended may have been the connection alone.
alive() {
  [[ "$(gcloud compute tpus queued-resources describe "$name-queue" "${WHERE[@]}" \
    --format='value(state.state)')" == ACTIVE ]]
}

lost=0  # connections in a row, to this TPU
if [[ "$DRY_RUN" != 1 ]]; then delete; fi  # what an earlier loop has left
for ((try = 1; try <= tries; try++)); do
  echo "# TPU $try of at most $tries"
  if [[ "$lost" == 1 ]] || "$here/tpu_vm_create.sh" "${which[@]}" ${create[@]+"${create[@]}"} --spot; then
    code=0
    "$here/tpu_vm_run.sh" "${which[@]}" ${setup[@]+"${setup[@]}"} -- "${PROGRAM[@]}" || code=$?
    case "$code" in
      0) [[ -n "$keep" ]] || delete; echo "# done"; exit 0 ;;
      1|2) [[ -n "$keep" ]] || delete; die "the program has refused or diverged; see above." ;;
      *) echo "# stopped with code $code: again" ;;  # 75: saved; 76: gone
    esac
    if [[ "$code" == 76 && "$lost" == 0 ]] && alive; then
      lost=1
      sleep "$pause"
      continue
    fi
  fi
  lost=0
  delete
  sleep "$pause"
done
die "not done after $tries TPUs."

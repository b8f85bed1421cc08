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
# Every round goes on from the last checkpoint in the work directory. Where only the connection or the
# set-up broke and the TPU is still there, it is tried once more before another is asked for.
# What would come again ends the loop: an error of the program (1: a wrong setting, gradients that are
# not finite; 137: out of memory), with the program's exit code; a TPU that is refused (a wrong type,
# no login), with 3. Not done after all tries: 2.
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

# end CODE WORDS...: what would fail again is not tried again, and not paid for either.
end() {
  [[ -n "$keep" ]] || delete
  stop "$@"
}

lost=0  # connections in a row, to this TPU
if [[ "$DRY_RUN" != 1 ]]; then delete; fi  # what an earlier loop has left
for ((try = 1; try <= tries; try++)); do
  echo "# TPU $try of at most $tries"
  code=0
  [[ "$lost" == 1 ]] || "$here/tpu_vm_create.sh" "${which[@]}" ${create[@]+"${create[@]}"} --spot || code=$?
  case "$code" in
    0) "$here/tpu_vm_run.sh" "${which[@]}" ${setup[@]+"${setup[@]}"} -- "${PROGRAM[@]}" || code=$? ;;
    4) code=76 ;;  # not granted
    *) end "$code" "no TPU can be asked for; see above." ;;
  esac
  case "$code" in
    0) [[ -n "$keep" ]] || delete; echo "# done"; exit 0 ;;
    75|76) echo "# stopped with code $code: again" ;;  # 75: saved; 76: gone
    *) end "$code" "the program has refused, diverged or crashed (code $code); see above." ;;
  esac
  if [[ "$code" == 76 && "$lost" == 0 ]] && alive; then
    lost=1
  else
    lost=0
    delete
  fi
  sleep "$pause"
done
die "not done after $tries TPUs."

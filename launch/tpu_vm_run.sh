#!/usr/bin/env bash
# Puts this checkout on all hosts of a TPU, installs it, and runs the program on all of them.
#
#   launch/tpu_vm_run.sh --name NAME [--dry-run] -- --config=configs/inpaint.py --workdir=/mnt/runs/inpaint
#
#   --name NAME        of the TPU
#   --project PROJECT  or TPU_PROJECT in the environment
#   --zone ZONE        or TPU_ZONE in the environment
#   --extras LIST      of setup.cfg to install (tpu)
#   --mount SERVER:DIR an NFS share (Filestore) to mount on all hosts as /mnt/runs
#   --skip-setup       it is installed already
#   --dry-run          print the commands
#   --help             this text
#
# The work directory must be one that all hosts see: a folder below /mnt/runs with --mount.
# The program goes on there if the connection breaks; the same command then shows its output again.
# Exit code 75: stopped by a signal and saved, start again; 76: the connection or the TPU is gone; that
# of the program otherwise.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options "name= project= zone= extras=tpu mount= skip-setup --" "$@"
tpu
program "--config=configs/inpaint.py --workdir=DIR"
case " ${PROGRAM[*]} " in *" --workdir="*) ;; *) die "give --workdir=DIR after --, a folder that all hosts see." ;; esac
all=("${WHERE[@]}" --worker=all)
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [[ -z "$skip_setup" ]]; then
  archive="${TMPDIR:-/tmp}/jax_bridges-$name.tar.gz"
  run git -C "$root" archive --format=tar.gz --output="$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$name":jax_bridges.tar.gz "${all[@]}"
  # A program that runs there already is not to lose its files.
  install='if kill -0 "$(cat ~/jax_bridges/run.pid 2>/dev/null)" 2>/dev/null; then exit 0; fi;'
  install+=' set -e; mkdir -p ~/jax_bridges; tar -xzf ~/jax_bridges.tar.gz -C ~/jax_bridges;'
  install+=' curl -LsSf https://astral.sh/uv/install.sh | sh; export PATH=~/.local/bin:$PATH;'
  install+=' cd ~/jax_bridges; uv venv --python 3.11 --clear .venv;'
  install+=" uv pip install --python .venv/bin/python '.[$extras]'"
  run gcloud compute tpus tpu-vm ssh "$name" "${all[@]}" --command="$install"
fi
if [[ -n "$mount" ]]; then
  attach='mountpoint -q /mnt/runs || { sudo apt-get install -y -q nfs-common; sudo mkdir -p /mnt/runs;'
  attach+=" sudo mount -t nfs $(quoted "$mount") /mnt/runs; sudo chmod a+rwx /mnt/runs; }"
  run gcloud compute tpus tpu-vm ssh "$name" "${all[@]}" --command="$attach"
fi

program="$(quoted .venv/bin/python -m jax_bridges.main --hosts=tpu "${PROGRAM[@]}"); echo \$? > run.code"
command='cd ~/jax_bridges; if ! kill -0 "$(cat run.pid 2>/dev/null)" 2>/dev/null; then rm -f run.code;'
command+=" nohup setsid bash -c ${program@Q} > run.log 2>&1 & echo \$! > run.pid; fi;"
command+=' tail -n +1 -f --pid="$(cat run.pid)" run.log; echo "exit code $(cat run.code)"'
output="$(mktemp)"
trap 'rm -f "$output"' EXIT
run gcloud compute tpus tpu-vm ssh "$name" "${all[@]}" --command="$command" | tee "$output" || true
[[ "$DRY_RUN" != 1 ]] || exit 0
codes="$(sed -n 's/.*exit code \([0-9]\{1,\}\)$/\1/p' "$output" | sort -u | tr '\n' ' ')"
case " $codes" in
  " 0 ") exit 0 ;;
  *" 75 "*) exit 75 ;;
  *" 1 "*) exit 1 ;;
  *) exit 76 ;;
esac

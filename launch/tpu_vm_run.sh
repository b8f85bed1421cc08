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
# What is sent is what lies in this checkout, uncommitted and new files too, without what .gitignore
# names; where there is no .git, only what the program needs: jax_bridges, configs, setup.cfg and such.
# The work directory must be one that all hosts see: a folder below /mnt/runs with --mount.
# The program goes on there if the connection breaks; the same command then shows its output again.
# Exit code 75: stopped by a signal and saved, start again; 76: the set-up on the hosts failed, or the
# connection or the TPU is gone; 2: a wrong option, or nothing to send; that of the program otherwise.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options "name= project= zone= extras=tpu mount= skip-setup --" "$@"
tpu
program "--config=configs/inpaint.py --workdir=DIR"
case " ${PROGRAM[*]} " in *" --workdir="*) ;; *) die "give --workdir=DIR after --, a folder that all hosts see." ;; esac
all=("${WHERE[@]}" --worker=all)
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# The names of the files to send, each ended by a zero byte.
contents() (
  cd "$root"
  if [[ -e .git ]]; then
    git ls-files -coz --exclude-standard | while IFS= read -r -d '' file; do
      # git still names what was deleted but not committed.
      if [[ -e "$file" || -L "$file" ]]; then printf '%s\0' "$file"; fi
    done
  else
    find pyproject.toml setup.cfg setup.py README.md LICENSE jax_bridges configs -name __pycache__ -prune -o -type f -print0
  fi
)

# on_all WHAT COMMAND: a step of the set-up. A host that is lost in it is lost as in the program: 76.
on_all() {
  run gcloud compute tpus tpu-vm ssh "$name" "${all[@]}" --command="$2" || stop 76 "$1 failed on a host; see above."
}

if [[ -z "$skip_setup" ]]; then
  archive="${TMPDIR:-/tmp}/jax_bridges-$name.tar.gz" files="${TMPDIR:-/tmp}/jax_bridges-$name.files"
  if [[ "$DRY_RUN" == 1 ]]; then
    echo "# the names of the files of this checkout, without what git ignores, go into $files"
  else
    contents > "$files" || die "the files of $root could not be listed; see above."
  fi
  run tar -czf "$archive" -C "$root" --null -T "$files" || die "$archive could not be written; see above."
  run gcloud compute tpus tpu-vm scp "$archive" "$name":jax_bridges.tar.gz "${all[@]}" \
    || stop 76 "the files did not reach all hosts; see above."
  # A program that runs there already is not to lose its files.
  install='if kill -0 "$(cat ~/jax_bridges/run.pid 2>/dev/null)" 2>/dev/null; then exit 0; fi;'
  install+=' set -e; mkdir -p ~/jax_bridges; tar -xzf ~/jax_bridges.tar.gz -C ~/jax_bridges;'
  install+=' curl -LsSf https://astral.sh/uv/install.sh | sh; export PATH=~/.local/bin:$PATH;'
  install+=' cd ~/jax_bridges; uv venv --python 3.11 --clear .venv;'
  install+=" uv pip install --python .venv/bin/python '.[$extras]'"
  on_all "the installation" "$install"
fi
if [[ -n "$mount" ]]; then
  # Without the share the program would write to the host's own disk, which goes with the TPU. A new
  # host may still be installing its updates: apt-get waits for that.
  attach='set -e; mountpoint -q /mnt/runs || {'
  attach+=' sudo apt-get -o DPkg::Lock::Timeout=300 install -y -q nfs-common; sudo mkdir -p /mnt/runs;'
  attach+=" sudo mount -t nfs $(quoted "$mount") /mnt/runs; mountpoint -q /mnt/runs; sudo chmod a+rwx /mnt/runs; }"
  on_all "mounting $mount" "$attach"
fi

program="$(quoted .venv/bin/python -m jax_bridges.main --hosts=tpu "${PROGRAM[@]}"); echo \$? > run.code"
command='cd ~/jax_bridges; if ! kill -0 "$(cat run.pid 2>/dev/null)" 2>/dev/null; then rm -f run.code; : > run.log;'
command+=" nohup setsid bash -c ${program@Q} > run.log 2>&1 & echo \$! > run.pid; fi;"
command+=' tail -n +1 -f --pid="$(cat run.pid)" run.log; echo "exit code $(cat run.code 2>/dev/null || echo 76)"'
output="$(mktemp)"
trap 'rm -f "$output"' EXIT
connection=0
run gcloud compute tpus tpu-vm ssh "$name" "${all[@]}" --command="$command" | tee "$output" || connection=$?
[[ "$DRY_RUN" != 1 ]] || exit 0
codes=" $(sed -n 's/.*exit code \([0-9]\{1,\}\)$/\1/p' "$output" | sort -un | tr '\n' ' ')"
# A host that is lost tells no code, and the others then fail for want of it.
if [[ "$connection" != 0 || "$codes" == " " ]]; then codes+="76 "; fi
# What the hosts tell may differ: an error of one (1) makes the others abort (134).
for code in 75 76 1; do
  case "$codes" in *" $code "*) exit "$code" ;; esac
done
codes="${codes% }"
exit "${codes##* }"

#!/usr/bin/env bash
# Submits a run to SLURM: one task a GPU on one or several nodes, requeued when it is preempted.
#
#   launch/slurm.sh --nodes 1 --gpus 8 [--dry-run] -- --config=configs/inpaint.py --workdir=DIR
#
#   --nodes N          nodes (1)
#   --gpus N           GPUs, and tasks, on each node (8)
#   --cpus N           cores a task (8)
#   --time LIMIT       as 2-00:00:00; the cluster's own if not given
#   --partition NAME   or SLURM_PARTITION in the environment; the cluster's own if not given
#   --account NAME     or SLURM_ACCOUNT in the environment; the cluster's own if not given
#   --name NAME        of the job (jax_bridges)
#   --dry-run          print the script instead of submitting it
#   --help             this text
#
# PYTHON (python) is the interpreter on the nodes; the work directory must be one that all nodes see.
# Two minutes before its end, or when it is preempted, all tasks get SIGTERM, save the same step and
# exit with 75, upon which the job puts itself into the queue again.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options "nodes=1 gpus=8 cpus=8 time= partition= account= name=jax_bridges --" "$@"
partition="${partition:-${SLURM_PARTITION:-}}" account="${account:-${SLURM_ACCOUNT:-}}"
program "--config=configs/inpaint.py --workdir=DIR"

script() {
  echo "#!/usr/bin/env bash"
  echo "#SBATCH --job-name=$name"
  echo "#SBATCH --nodes=$nodes"
  echo "#SBATCH --ntasks-per-node=$gpus"
  echo "#SBATCH --gpus-per-node=$gpus"
  echo "#SBATCH --cpus-per-task=$cpus"
  echo "#SBATCH --output=%x-%j.log"
  echo "#SBATCH --open-mode=append"
  echo "#SBATCH --requeue"
  echo "#SBATCH --signal=TERM@120"
  [[ -z "$time" ]] || echo "#SBATCH --time=$time"
  [[ -z "$partition" ]] || echo "#SBATCH --partition=$partition"
  [[ -z "$account" ]] || echo "#SBATCH --account=$account"
  echo "code=0"
  # Since Slurm 22.05 srun does not take the cores a task from the job: each task would get one.
  echo "srun --kill-on-bad-exit=0 --cpus-per-task=$cpus $(quoted "${PYTHON:-python}" -m jax_bridges.main --hosts=slurm "${PROGRAM[@]}") || code=\$?"
  echo 'if [[ "$code" == 75 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi'
  echo 'exit "$code"'
}
if [[ "$DRY_RUN" == 1 ]]; then script; else script | sbatch; fi

#!/usr/bin/env bash
# Pre-train MedLAM on a SLURM cluster: one task a node, all its GPUs; resumes by itself when it is requeued.
#
#   sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh /shared/prepared_ct /shared/runs/medlam [--any.setting VALUE ...]
#
# SLURM tells the processes of each other (cluster.kind auto). SIGTERM comes two minutes before the time limit: the run
# keeps its state, and the requeued job goes on from there. The set and the run's folder must be visible to every node.
#SBATCH --job-name=medlam
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=medlam-%j.log
set -euo pipefail
if [[ $# -lt 2 ]]; then
  echo "usage: sbatch launch/slurm.sh PREPARED_SET RUN_FOLDER [--any.setting VALUE ...]" >&2
  exit 2
fi
prepared=$1 run=$2
shift 2
exec srun --kill-on-bad-exit=1 medlsam pretrain --config configs/medlam.py --workdir "$run" --cluster.kind auto \
  --data.index="$prepared" --data.workers 8 --network.dtype bfloat16 "$@"

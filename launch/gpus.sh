#!/usr/bin/env bash
# Pre-train MedLAM on all GPUs of this machine: one process, the scans of a step split over the GPUs.
#
#   launch/gpus.sh prepared_ct runs/medlam [--any.setting VALUE ...]
#
# data.scans_per_step must be a multiple of the number of GPUs. The same call goes on with a stopped run.
set -euo pipefail
if [[ $# -lt 2 ]]; then
  echo "usage: launch/gpus.sh PREPARED_SET RUN_FOLDER [--any.setting VALUE ...]" >&2
  exit 2
fi
prepared=$1 run=$2
shift 2
gpus=$(nvidia-smi --list-gpus | wc -l)
exec medlsam pretrain --config configs/medlam.py --workdir "$run" --data.index="$prepared" --data.workers 4 \
  --data.scans_per_step "$((gpus * 4))" --network.dtype bfloat16 "$@"

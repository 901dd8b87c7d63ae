#!/bin/bash
# envs/own_gpu.sh [--reverse] COMMAND...: show only its own GPU to a rank, then run the command.
#
# For launchers that show all GPUs to every rank. --reverse: rank 0 uses the last GPU, which on some
# nodes is closest to the first cores.
set -euo pipefail
reverse=0
if [ "${1:-}" = --reverse ]; then reverse=1 && shift; fi
# Open MPI's comes first: under mpirun in an allocation Slurm's is the same on every rank.
for variable in OMPI_COMM_WORLD_LOCAL_RANK PALS_LOCAL_RANKID PMI_LOCAL_RANK MPI_LOCALRANKID SLURM_LOCALID; do
    rank=${!variable:-}
    if [ -n "$rank" ]; then break; fi
done
if [ -z "$rank" ]; then
    echo "own_gpu.sh: no launcher says which rank of its node this is" >&2
    exit 1
fi
count=${HPCSAMP_GPUS:-$(find /dev -maxdepth 1 -regex '/dev/nvidia[0-9]+' | wc -l)}
[ "$count" -gt 0 ] || count=$(find /dev/dri -maxdepth 1 -name 'renderD*' 2>/dev/null | wc -l)
if [ "$count" -gt 0 ]; then
    gpu=$((rank % count))
    if [ $reverse = 1 ]; then gpu=$((count - 1 - gpu)); fi
    export CUDA_VISIBLE_DEVICES=$gpu ROCR_VISIBLE_DEVICES=$gpu
fi
exec "$@"

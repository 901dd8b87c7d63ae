#!/bin/bash
# envs/own_gpu.sh [--reverse] COMMAND...: show only its own GPU to a rank, then run the command.
#
# For launchers that show all GPUs to every rank. --reverse: rank 0 uses the last GPU, which on some
# nodes is closest to the first cores. Exactly one variable is set: CUDA_VISIBLE_DEVICES for GPUs of
# NVIDIA, ROCR_VISIBLE_DEVICES for those of AMD, whose runtime applies CUDA_VISIBLE_DEVICES and
# HIP_VISIBLE_DEVICES to what ROCR_VISIBLE_DEVICES has left. If the batch system has already set one
# of them to several GPUs, the rank gets one of these.
#
#   HPCSAMP_GPUS    number of GPUs of the node           (default: counted by the drivers' files)
#   HPCSAMP_VENDOR  nvidia or amd                        (default: by the drivers' files)
#   HPCSAMP_DEV, HPCSAMP_KFD   where these files are     (default: /dev and /sys/class/kfd/kfd)
set -euo pipefail
reverse=0
if [ "${1:-}" = --reverse ]; then reverse=1 && shift; fi
# Open MPI's comes first: under mpirun in an allocation Slurm's is the same on every rank.
for variable in OMPI_COMM_WORLD_LOCAL_RANK PALS_LOCAL_RANKID PMI_LOCAL_RANK MPI_LOCALRANKID SLURM_LOCALID; do
    rank=${!variable:-}
    if [ -n "$rank" ]; then break; fi
done
if [ -z "$rank" ]; then
    echo "own_gpu.sh: no launcher variable contains the rank on this node" >&2
    exit 1
fi
nvidia=$(find "${HPCSAMP_DEV:-/dev}" -maxdepth 1 -regex '.*/nvidia[0-9]+' | wc -l)
amd=$(cat "${HPCSAMP_KFD:-/sys/class/kfd/kfd}"/topology/nodes/*/gpu_id 2>/dev/null | grep -cvx 0 || true)
vendor=${HPCSAMP_VENDOR:-}
if [ -z "$vendor" ]; then
    if [ "$nvidia" -gt 0 ]; then vendor=nvidia; elif [ "$amd" -gt 0 ]; then vendor=amd; fi
fi
case $vendor in
    nvidia) own=CUDA_VISIBLE_DEVICES given=("$own") count=$nvidia ;;
    amd) own=ROCR_VISIBLE_DEVICES given=("$own" HIP_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES) count=$amd ;;
    "")
        [ -n "${HPCSAMP_GPUS:-}" ] || exec "$@"
        echo "own_gpu.sh: this node has no driver for GPUs; set HPCSAMP_VENDOR=nvidia or amd" >&2
        exit 1
        ;;
    *)
        echo "own_gpu.sh: HPCSAMP_VENDOR must be nvidia or amd, not $vendor" >&2
        exit 1
        ;;
esac
gpus=()
for ((i = 0; i < ${HPCSAMP_GPUS:-$count}; i++)); do gpus+=("$i"); done
for variable in "${given[@]}"; do
    if [ -n "${!variable:-}" ]; then
        IFS=, read -ra gpus <<<"${!variable}"
        break
    fi
done
count=${#gpus[@]}
if [ "$count" -gt 0 ]; then
    gpu=$((rank % count))
    if [ $reverse = 1 ]; then gpu=$((count - 1 - gpu)); fi
    unset CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES
    export "$own=${gpus[gpu]}"
fi
exec "$@"

# shellcheck shell=bash
# envs/alps.sh: Alps at CSCS, four GH200 a node.
#
# Follows https://docs.cscs.ch/running/slurm/ and /software/communication/nccl/, as of summer 2026:
# prgenv-gnu/24.11 was removed in April 2026; 25.6, 25.11 and 26.3 are there.
# Checked against these pages in summer 2026.
# Not run on this system: written from that page, tested with stub commands (tests/test_envs.py).
#
#     HPCSAMP_SITE=alps sbatch --account=ACCOUNT --uenv=prgenv-gnu/25.11 --view=default \
#         --ntasks-per-node=4 --cpus-per-task=72 jobscripts/slurm/train.sbatch CONFIG RUN

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" || return 1
# A user environment replaces modules: it provides MPI, HDF5, CUDA and Python.
if [ -z "${UENV_VIEW:-}${UENV_MOUNT_LIST:-}" ]; then
    _hpcsamp_fail "no uenv is loaded: sbatch --uenv=prgenv-gnu/25.11 --view=default, or uenv start --view=default prgenv-gnu/25.11"
    return 1
fi
# GPU-aware MPI together with NCCL can deadlock on this system.
export MPICH_GPU_SUPPORT_ENABLED=0
export HPCSAMP_MPI= # the uenv holds Cray MPICH, which srun's default fits; pmix does not
export NCCL_NET="AWS Libfabric" NCCL_NET_GDR_LEVEL=PHB NCCL_CROSS_NIC=1 FI_CXI_DEFAULT_CQ_SIZE=131072
export FI_CXI_DISABLE_HOST_REGISTER=1 FI_MR_CACHE_MONITOR=userfaultfd
export NCCL_PROTO=^LL128 FI_CXI_DEFAULT_TX_SIZE=16384 FI_CXI_RX_MATCH_MODE=software
# shellcheck disable=SC2034
HPCSAMP_LAUNCH=(--gpus-per-task=1)
hpcsamp_environment

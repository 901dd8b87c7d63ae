# shellcheck shell=bash
# envs/frontier.sh: Frontier at Oak Ridge (OLCF), eight GCDs (four MI250X) a node.
#
# Follows https://docs.olcf.ornl.gov/systems/frontier_user_guide.html and /software/python/pytorch_frontier.html.
# In summer 2026 the current stack was cpe/26.03 with rocm/7.1.1; the modules below are the defaults.
# Checked against these pages in summer 2026.
# Not run on this system: written from that page, tested with stub commands (tests/test_envs.py).
#
#     HPCSAMP_SITE=frontier sbatch --account=ACCOUNT --constraint=nvme --ntasks-per-node=8 \
#         --gpus-per-task=1 --cpus-per-task=7 jobscripts/slurm/train.sbatch CONFIG RUN
#
# Large jobs: pack the environment and `sbcast` it to the nodes' NVMe, then set HPCSAMP_VENV to it.
#
# Container: Apptainer, with MPICH 3.4.2 in the image and cray-mpich-abi from the host
# (docs.olcf.ornl.gov/software/containers_on_frontier.html, read in November 2026).

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" || return 1
hpcsamp_modules PrgEnv-gnu rocm cray-hdf5-parallel cray-python || return 1
export HPCSAMP_TORCH_INDEX=${HPCSAMP_TORCH_INDEX:-https://download.pytorch.org/whl/rocm6.2}
export MPICH_GPU_SUPPORT_ENABLED=0
export HPCSAMP_MPI= # srun's default fits Cray MPICH
# Each task sees the GCD nearest to its cores.
# shellcheck disable=SC2034
HPCSAMP_LAUNCH=(--gpus-per-task=1 --gpu-bind=closest)
export NCCL_SOCKET_IFNAME=hsn0 FI_CXI_DEFAULT_CQ_SIZE=131072 FI_MR_CACHE_MONITOR=kdreg2
# The burst buffer of a node, with --constraint=nvme.
if [ -d "/mnt/bb/${USER:-}" ]; then export HPCSAMP_LOCAL=${HPCSAMP_LOCAL-/mnt/bb/$USER}; fi
hpcsamp_environment

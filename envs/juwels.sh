# shellcheck shell=bash
# envs/juwels.sh: JUWELS Booster and JURECA-DC at Jülich (JSC), four A100 a node.
#
# Follows https://apps.fz-juelich.de/jsc/hps/juwels/ (quick introduction, GPU computing).
# Not checked against these pages since it was written: modules and wheels may have moved.
# Not run on this system: written from that page, tested with stub commands (tests/test_envs.py).
#
#     HPCSAMP_SITE=juwels sbatch --account=ACCOUNT --partition=booster --gres=gpu:4 \
#         --ntasks-per-node=4 --cpus-per-task=12 jobscripts/slurm/train.sbatch CONFIG RUN
#
# Compute nodes have no network access: source this file on a login node first.

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" || return 1
# a stage is a year's set of modules; HDF5 and Python come for its compiler and MPI
hpcsamp_modules "Stages/${HPCSAMP_STAGE:-2025}" GCC OpenMPI CUDA/12 cuDNN NCCL MPI-settings/CUDA HDF5 Python || return 1
# All four GPUs stay visible to every rank: rank r of a node uses cuda:r.
export CUDA_VISIBLE_DEVICES=0,1,2,3
# Slurm's own pinning at JSC does not suit these jobs, and steps do not inherit --cpus-per-task.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-12}
export HPCSAMP_BIND=none
# shellcheck disable=SC2034
HPCSAMP_LAUNCH=(--threads-per-core=1)
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-ib0}
hpcsamp_environment

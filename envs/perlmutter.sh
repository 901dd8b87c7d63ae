# shellcheck shell=bash
# envs/perlmutter.sh: Perlmutter at NERSC, four A100 a node.
#
# Follows https://docs.nersc.gov/systems/perlmutter/running-jobs/ and /development/languages/python/.
# Not checked against these pages since it was written: modules and wheels may have moved.
# Not run on this system: written from that page, tested with stub commands (tests/test_envs.py).
#
#     HPCSAMP_SITE=perlmutter sbatch --account=ACCOUNT --constraint=gpu --qos=regular \
#         --ntasks-per-node=4 --gpus-per-task=1 --cpus-per-task=32 jobscripts/slurm/train.sbatch CONFIG RUN
#
# A task's 32 CPUs are 16 cores: the scripts ask Slurm and set 16 threads.

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" || return 1
hpcsamp_modules PrgEnv-gnu cudatoolkit cray-hdf5-parallel nccl python || return 1
# NCCL moves the gradients; MPI sees host memory alone, and the two do not wait for each other.
export MPICH_GPU_SUPPORT_ENABLED=0
export HPCSAMP_MPI= # srun's default fits Cray MPICH
export SLURM_CPU_BIND=cores
# A GPU a task by count; without binding, so that NCCL may reach the others of the node.
# shellcheck disable=SC2034
HPCSAMP_LAUNCH=(--gpus-per-task=1 --gpu-bind=none)
hpcsamp_environment

# shellcheck shell=bash
# envs/polaris.sh: Polaris at Argonne (ALCF), four A100 a node, PBS.
#
# Follows https://docs.alcf.anl.gov/polaris/running-jobs/ and /polaris/data-science/frameworks/, as of
# summer 2026. The queue prod takes at least ten nodes; debug-scaling takes fewer.
# Checked against these pages in summer 2026.
# Not run on this system: written from that page, tested with stub commands (tests/test_envs.py).
#
#     qsub -A ACCOUNT -q debug-scaling -l select=2:ncpus=64:mpiprocs=4:ompthreads=16 \
#         -l filesystems=home:eagle -v HPCSAMP_SITE=polaris,CONFIG=...,RUN=... jobscripts/pbs/train.pbs
#
# Compute nodes reach the package index through ALCF's proxy alone: source this on a login node.
#
# Container: Apptainer, with MPICH in the image and cray-mpich-abi from the host, built on a compute node
# (docs.alcf.anl.gov/polaris/containers/containers, read in November 2026).

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" || return 1
if command -v module >/dev/null 2>&1; then module use /soft/modulefiles; fi
hpcsamp_modules PrgEnv-gnu cudatoolkit-standalone cray-hdf5-parallel cray-python || return 1
# PALS binds ranks; the GPU of a rank is chosen before MPI starts.
export HPCSAMP_LAUNCHER=mpiexec
# shellcheck disable=SC2034
HPCSAMP_WRAPPER=("$(dirname "${BASH_SOURCE[0]}")/own_gpu.sh" --reverse)
export MPICH_GPU_SUPPORT_ENABLED=0
export NCCL_NET="AWS Libfabric" NCCL_NET_GDR_LEVEL=PHB NCCL_CROSS_NIC=1 NCCL_COLLNET_ENABLE=1
export FI_CXI_DISABLE_HOST_REGISTER=1 FI_MR_CACHE_MONITOR=userfaultfd FI_CXI_DEFAULT_CQ_SIZE=131072
if _hpcsamp_in_job; then export HPCSAMP_LOCAL=${HPCSAMP_LOCAL-/local/scratch}; fi
hpcsamp_environment

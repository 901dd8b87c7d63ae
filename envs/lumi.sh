# shellcheck shell=bash
# envs/lumi.sh: LUMI-G at CSC, eight GCDs (four MI250X) a node.
#
# Follows https://docs.lumi-supercomputer.eu/runjobs/scheduled-jobs/lumig-job/ (GPU and CPU binding).
# Not checked against these pages since it was written: modules and wheels may have moved.
# Not run on this system: written from that page, tested with stub commands (tests/test_envs.py).
#
#     HPCSAMP_SITE=lumi sbatch --account=ACCOUNT --partition=standard-g --gpus-per-node=8 \
#         --ntasks-per-node=8 --cpus-per-task=7 jobscripts/slurm/train.sbatch CONFIG RUN
#
# Many small files slow down Lustre: LUMI asks users to replace large virtual environments by a
# container. Singularity images with torch for ROCm are in /appl/local/laifs/containers; their bindings are
# the module lumi-aif-singularity-bindings (LUMI AI guide, chapters 2 and 5, read in November 2026).

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" || return 1
hpcsamp_modules LUMI/24.03 partition/G PrgEnv-gnu rocm cray-hdf5-parallel cray-python || return 1
# torch for ROCm from the package index; Horovod exchanges gradients with MPI through the host.
export HPCSAMP_TORCH_INDEX=${HPCSAMP_TORCH_INDEX:-https://download.pytorch.org/whl/rocm6.2}
export MPICH_GPU_SUPPORT_ENABLED=0
export HPCSAMP_MPI= # srun's default fits Cray MPICH
# Rank r of a node: GCD r, and the seven free cores next to it (the first of eight is the system's).
export HPCSAMP_BIND=mask_cpu:fe000000000000,fe00000000000000,fe0000,fe000000,fe,fe00,fe00000000,fe0000000000
# shellcheck disable=SC2034
HPCSAMP_WRAPPER=("$(dirname "${BASH_SOURCE[0]}")/own_gpu.sh")
export NCCL_SOCKET_IFNAME=hsn0,hsn1,hsn2,hsn3 FI_CXI_DEFAULT_CQ_SIZE=131072
hpcsamp_environment

# shellcheck shell=bash
# envs/modules.sh: any cluster with environment modules (Lmod or Tcl modules).
#
#     export HPCSAMP_MODULES="gcc openmpi hdf5-parallel python"     # in your ~/.bashrc, say
#     source envs/modules.sh                                        # once on a login node: builds
#     sbatch jobscripts/slurm/train.sbatch CONFIG RUN               # jobs source it again
#
# HPCSAMP_MODULES names the modules in the order in which they are loaded: a compiler, an MPI with
# thread support, an HDF5 built with that MPI, Python 3.11 or newer, on GPU nodes CUDA, cuDNN, NCCL.
# List a module before those that it makes available (see `module spider hdf5`). If one of them is the
# modulefile of envs/modulefiles, the environment that it activates is used.
# Tested on a two-node Slurm cluster with environment modules 5 (tests/slurm).

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" || return 1
if [ -z "${HPCSAMP_MODULES:-}" ]; then
    _hpcsamp_fail "name your modules first: export HPCSAMP_MODULES=\"gcc openmpi hdf5 python\" (see envs/modules.sh)"
    return 1
fi
# shellcheck disable=SC2086
hpcsamp_modules $HPCSAMP_MODULES && hpcsamp_environment

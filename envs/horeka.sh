# shellcheck shell=bash
# envs/horeka.sh: HoreKa at Karlsruhe (KIT, NHR), four A100 a node.
#
# Follows https://www.nhr.kit.edu/userdocs/horeka/ (batch system, GPU nodes, file systems).
# Not checked against these pages since it was written: modules and wheels may have moved.
# Not run on this system: written from that page, tested with stub commands (tests/test_envs.py).
#
#     HPCSAMP_SITE=horeka sbatch --partition=accelerated --gres=gpu:4 --ntasks-per-node=4 \
#         --cpus-per-task=38 jobscripts/slurm/train.sbatch CONFIG RUN

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" || return 1
hpcsamp_modules compiler/gnu mpi/openmpi devel/cuda lib/hdf5 || return 1
# The SSD of a node, where each job has its own folder.
if _hpcsamp_in_job; then export HPCSAMP_LOCAL=${HPCSAMP_LOCAL-${TMPDIR:-}}; fi
hpcsamp_environment

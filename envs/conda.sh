# shellcheck shell=bash
# envs/conda.sh: MPI, parallel HDF5, compilers and Python from conda-forge, for machines without.
#
#     source envs/conda.sh        # conda, mamba or micromamba; creates the environment "hpcsamp" once
#
# Horovod and h5py are then built by the same recipe as everywhere, against conda's MPI. On a
# cluster prefer its own MPI: conda's does not know the network (unless the external Open MPI of
# conda-forge is used, see https://conda-forge.org/docs/user/tipsandtricks/#using-external-message-passing-interface-mpi-libraries).
# HPCSAMP_CONDA names another environment. Follows https://conda-forge.org/docs/. Not run with a
# real conda, and not checked against that page since it was written: tested with stub commands (tests/test_envs.py).

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" || return 1

_hpcsamp_conda() {
    local name=${HPCSAMP_CONDA:-hpcsamp} tool file
    file=$(dirname "${BASH_SOURCE[0]}")/environment.yml
    for tool in conda mamba micromamba; do
        if command -v "$tool" >/dev/null 2>&1; then break; fi
        tool=
    done
    [ -n "$tool" ] || { _hpcsamp_fail "there is no conda, mamba or micromamba here"; return 1; }
    # activation is a shell function, which is not defined in batch jobs
    if [ "$tool" = micromamba ]; then
        eval "$(micromamba shell hook --shell bash)"
    else
        eval "$(conda shell.bash hook)"
        tool=conda
    fi
    if ! "$tool" env list | grep -qE "^ *$name( |$)"; then
        if _hpcsamp_in_job; then
            _hpcsamp_fail "there is no conda environment $name, and a job does not make one: source this file on a login node first"
            return 1
        fi
        _hpcsamp_say "making the conda environment $name"
        if [ "$tool" = micromamba ]; then
            micromamba create --yes --name "$name" --file "$file" || return 1
        else
            conda env create --name "$name" --file "$file" || return 1
        fi
    fi
    "$tool" activate "$name" || return 1
    export HPCSAMP_PYTHON=$CONDA_PREFIX/bin/python
}

_hpcsamp_nounset=0
case $- in *u*) _hpcsamp_nounset=1 && set +u ;; esac # conda's own scripts read unset variables
_hpcsamp_conda
_hpcsamp_code=$?
if [ $_hpcsamp_nounset = 1 ]; then set -u; fi
[ $_hpcsamp_code = 0 ] && hpcsamp_environment

# shellcheck shell=bash
# envs/spack.sh: MPI, parallel HDF5 and Python from Spack.
#
#     . SPACK/share/spack/setup-env.sh && source envs/spack.sh
#
# Uses the Spack environment HPCSAMP_SPACK (default envs/spack, which this file installs once; make
# your own to use a site's MPI as an external). Follows https://spack.readthedocs.io/ (environments).
# Not checked against this page since it was written; a package of hpcsamp itself is in
# envs/spack/spack_repo. Not run with a real Spack: tested with stub commands (tests/test_envs.py).

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" || return 1

_hpcsamp_spack() {
    local folder=${HPCSAMP_SPACK:-$(dirname "${BASH_SOURCE[0]}")/spack}
    if ! command -v spack >/dev/null 2>&1 && [ -e "${SPACK_ROOT:-}/share/spack/setup-env.sh" ]; then
        # shellcheck source=/dev/null
        source "$SPACK_ROOT/share/spack/setup-env.sh"
    fi
    command -v spack >/dev/null 2>&1 || { _hpcsamp_fail "there is no spack command: source share/spack/setup-env.sh of your Spack, or set SPACK_ROOT"; return 1; }
    spack env activate "$folder" || return 1
    if ! HDF5_DIR=$(spack location --install-dir hdf5 2>/dev/null); then
        if _hpcsamp_in_job; then
            _hpcsamp_fail "the Spack environment $folder is not installed, and a job does not do it: source this file on a login node first"
            return 1
        fi
        _hpcsamp_say "installing the Spack environment $folder"
        spack install || return 1
        HDF5_DIR=$(spack location --install-dir hdf5) || return 1
    fi
    export HDF5_DIR
    HPCSAMP_PYTHON=$(spack location --install-dir python)/bin/python3
    export HPCSAMP_PYTHON
}
_hpcsamp_spack && hpcsamp_environment

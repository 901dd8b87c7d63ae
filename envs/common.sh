# shellcheck shell=bash
# envs/common.sh: functions that all files in envs/ share. Do not source it directly.
#
#     hpcsamp_modules NAME...   load environment modules, also in shells that are not login shells
#     hpcsamp_environment       build what is missing (on a login node) and activate it
#     hpcsamp_one_machine       settings of Open MPI on a workstation or in a container
#
# A site file sets the site's own settings, loads its modules and calls hpcsamp_environment. In a
# batch job nothing is built or downloaded: compute nodes often have no network access, and a hundred
# jobs must not build a hundred times. Settings: see envs/local.sh.

_hpcsamp_say() { printf 'hpcsamp: %s\n' "$*"; }
_hpcsamp_fail() { printf 'hpcsamp: %s\n' "$*" >&2; return 1; }

_hpcsamp_settings() {
    # ignore the default of another checkout that was sourced before
    [ "${HPCSAMP_VENV:-}" != "${HPCSAMP_ROOT:-}/.venv" ] || unset HPCSAMP_VENV
    HPCSAMP_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return 1
    : "${HPCSAMP_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/hpcsamp}"
    : "${HPCSAMP_VENV:=$HPCSAMP_ROOT/.venv}"
    : "${HPCSAMP_PYTHON:=python3}"
    : "${HPCSAMP_TORCH:=2.13.0}"
    : "${HPCSAMP_TORCHVISION:=0.28.0}"
    : "${HPCSAMP_TORCH_INDEX:=}"
    : "${HPCSAMP_HOROVOD:=1}"
    export HPCSAMP_ROOT HPCSAMP_CACHE HPCSAMP_VENV HPCSAMP_PYTHON HPCSAMP_TORCH \
        HPCSAMP_TORCHVISION HPCSAMP_TORCH_INDEX HPCSAMP_HOROVOD
}

# Print the prefix of an HDF5 installation that was built with MPI, or nothing.
_hpcsamp_find_hdf5() {
    local d compiler
    for d in "${HDF5_DIR:-}" "${HDF5_ROOT:-}" "${CONDA_PREFIX:-}" \
        /usr/lib/*/hdf5/openmpi /usr/lib/*/hdf5/mpich; do
        [ -n "$d" ] || continue
        if grep -qs 'define H5_HAVE_PARALLEL 1' "$d/include/H5pubconf.h"; then echo "$d"; return; fi
    done
    compiler=$(command -v h5pcc) || return 0
    d=$(cd "$(dirname "$compiler")/.." && pwd)
    if grep -qs 'define H5_HAVE_PARALLEL 1' "$d/include/H5pubconf.h"; then echo "$d"; fi
}

_hpcsamp_missing() {
    command -v mpicc >/dev/null && { command -v mpirun || command -v mpiexec || command -v srun; } >/dev/null || echo MPI
    [ -n "$(_hpcsamp_find_hdf5)" ] || echo parallel-HDF5
    { command -v c++ && command -v make; } >/dev/null || echo C++-compiler
    command -v flock >/dev/null || echo util-linux
    command -v "$HPCSAMP_PYTHON" >/dev/null || { echo "Python ($HPCSAMP_PYTHON)"; return; }
    "$HPCSAMP_PYTHON" -c 'import ensurepip, venv, sys, os, sysconfig
sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null \
        || echo Python-headers-and-venv
}

# Install MPI, parallel HDF5, a compiler and Python headers with apt, if that is permitted.
_hpcsamp_system() {
    local missing as_root=()
    missing=$(_hpcsamp_missing | tr '\n' ' ')
    [ -n "${missing// /}" ] || return 0
    if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then as_root=(sudo -n); fi
    if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || [ ${#as_root[@]} -gt 0 ]; }; then
        _hpcsamp_say "installing with apt-get, because these are missing: $missing"
        "${as_root[@]}" apt-get update -qq
        if ! DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq \
            --no-install-recommends openmpi-bin libopenmpi-dev libhdf5-openmpi-dev g++ make git \
            util-linux python3 python3-dev python3-venv >/dev/null; then
            _hpcsamp_fail "apt-get could not install what is missing: $missing"
            return 1
        fi
        missing=$(_hpcsamp_missing | tr '\n' ' ')
        [ -n "${missing// /}" ] || return 0
    fi
    if command -v module >/dev/null 2>&1 || [ -n "${LMOD_CMD:-}${MODULESHOME:-}" ]; then
        _hpcsamp_fail "missing: $missing- load the modules that provide them first (module spider hdf5), then source this file again"
    elif [ -n "${CONDA_PREFIX:-}" ]; then
        _hpcsamp_fail "missing: $missing- try: conda install -c conda-forge openmpi 'hdf5=*=mpi_openmpi*' cxx-compiler make python"
    else
        _hpcsamp_fail "missing: $missing- ask for these packages: openmpi-bin libopenmpi-dev libhdf5-openmpi-dev g++ make python3-dev python3-venv"
    fi
}

_hpcsamp_hash() { sha256sum | cut -c 1-12; }

# Settings that the compiled wheels depend on ...
_hpcsamp_built_key() {
    {
        "$HPCSAMP_PYTHON" -c 'import sys, platform; print(sys.version, platform.machine())'
        mpirun --version | head -n 1
        echo "$HPCSAMP_TORCH $HPCSAMP_HOROVOD"
        _hpcsamp_find_hdf5
        command -v nvidia-smi
        sed -n '/_version=/p; /^build_.*() {/,/^}/p' "$HPCSAMP_ROOT/envs/build_wheels.sh"
    } 2>/dev/null | _hpcsamp_hash
}

# ... and those that the downloaded ones depend on.
_hpcsamp_fetched_key() {
    {
        "$HPCSAMP_PYTHON" -c 'import sys, platform; print(sys.version, platform.machine())'
        echo "$HPCSAMP_TORCH $HPCSAMP_TORCHVISION $HPCSAMP_TORCH_INDEX"
        sed -n '/^install_requires/,/^$/p; /^\[options.extras_require\]/,/^\[tool/p' "$HPCSAMP_ROOT/setup.cfg"
    } 2>/dev/null | _hpcsamp_hash
}

_hpcsamp_environment() {
    local fetched built key log started=$SECONDS
    fetched=$(_hpcsamp_fetched_key) built=$(_hpcsamp_built_key)
    # an environment that another version of this recipe installed is reinstalled from the same wheels
    key=$fetched-$built-$(sed -n '/^patch_.*() {/,$p' "$HPCSAMP_ROOT/envs/build_wheels.sh" | _hpcsamp_hash)
    [ "$(cat "$HPCSAMP_VENV/.hpcsamp-key" 2>/dev/null)" != "$key" ] || return 0
    mkdir -p "$HPCSAMP_CACHE" "$(dirname "$HPCSAMP_VENV")" || return 1
    "$HPCSAMP_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { _hpcsamp_fail "Python 3.11 or newer is needed, $HPCSAMP_PYTHON is $("$HPCSAMP_PYTHON" -V)"; return 1; }
    log=$HPCSAMP_CACHE/setup-$key.log
    (   # one set-up at a time per cache; a second one waits and then finds the wheels
        flock 9
        [ "$(cat "$HPCSAMP_VENV/.hpcsamp-key" 2>/dev/null)" != "$key" ] || exit 0
        _hpcsamp_say "setting up $HPCSAMP_VENV (log: $log)"
        HDF5_DIR=$(_hpcsamp_find_hdf5) bash "$HPCSAMP_ROOT/envs/build_wheels.sh" \
            "$HPCSAMP_CACHE/fetched-$fetched" "$HPCSAMP_CACHE/built-$built" "$log" &&
            echo "$key" >"$HPCSAMP_VENV/.hpcsamp-key"
    ) 9>"$HPCSAMP_CACHE/lock" || { _hpcsamp_fail "set-up failed, see $log"; return 1; }
    _hpcsamp_say "ready after $((SECONDS - started)) s"
}

_hpcsamp_exports() {
    if [ "${VIRTUAL_ENV:-}" != "$HPCSAMP_VENV" ]; then # a module may have done it
        # shellcheck source=/dev/null
        source "$HPCSAMP_VENV/bin/activate" || return 1
    fi
    # Without compiled files every rank would compile torch at every start, which takes seconds.
    unset PYTHONDONTWRITEBYTECODE
    # Readers on network file systems: the shards are never written while they are read.
    export HDF5_USE_FILE_LOCKING=FALSE
}

# Allow more ranks than cores, do not pin ranks to the same core, and allow root.
hpcsamp_one_machine() {
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
    # Containers often forbid cross-memory attach; Open MPI then prints an error per rank.
    export OMPI_MCA_btl_vader_single_copy_mechanism=none
}

_hpcsamp_in_job() { [ -n "${SLURM_JOB_ID:-}${PBS_JOBID:-}" ]; }

# A batch script is not a login shell: `module` must be defined first. The files of some centres fail
# under `set -u`.
_hpcsamp_find_module() {
    ! command -v module >/dev/null 2>&1 || return 0
    local file nounset=0
    case $- in *u*) nounset=1 && set +u ;; esac
    for file in "${LMOD_PKG:+$LMOD_PKG/init/bash}" "${MODULESHOME:+$MODULESHOME/init/bash}" \
        /etc/profile.d/lmod.sh /etc/profile.d/modules.sh /usr/share/lmod/lmod/init/bash \
        /usr/share/modules/init/bash; do
        if [ -n "$file" ] && [ -e "$file" ]; then
            # shellcheck source=/dev/null
            source "$file" >/dev/null && command -v module >/dev/null 2>&1 && break
        fi
    done
    if [ $nounset = 1 ]; then set -u; fi
    command -v module >/dev/null 2>&1 ||
        _hpcsamp_fail "there is no module command on $(hostname); set HPCSAMP_SITE to another file of envs/, e.g. local"
}

# hpcsamp_modules NAME...: load modules in this order; print one line and fail if one does not exist.
hpcsamp_modules() {
    local name told nounset=0 failed=0
    _hpcsamp_find_module || return 1
    case $- in *u*) nounset=1 && set +u ;; esac
    told=$(mktemp)
    for name in "$@"; do
        if ! module load "$name" 2>"$told" || grep -qE '^ *(ERROR|Lmod has detected the following error)' "$told"; then
            _hpcsamp_fail "module load $name: $(tr -s ' \n' ' ' <"$told")"
            failed=1
            break
        fi
    done
    rm -f "$told"
    if [ $nounset = 1 ]; then set -u; fi
    return $failed
}

hpcsamp_environment() {
    _hpcsamp_settings || return 1
    if ! _hpcsamp_in_job; then
        _hpcsamp_system && _hpcsamp_environment && _hpcsamp_exports
    elif [ -x "$HPCSAMP_VENV/bin/hpcsamp" ]; then
        _hpcsamp_exports
    else
        _hpcsamp_fail "there is no environment in $HPCSAMP_VENV, and a job does not build one: source the same file of envs/ on a login node first"
    fi
}

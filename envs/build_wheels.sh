#!/bin/bash
# build_wheels.sh FETCHED BUILT LOG: fill two wheel folders once, then install them into a new
# $HPCSAMP_VENV.
#
# Called by the files in envs/; the settings come from there. Wheels from the package index are
# fetched with pip (so that a site's pip configuration holds). Horovod and parallel h5py are built
# side by side from their sdists against the MPI and HDF5 that are here. torchvision is repacked where
# its compiled operations do not load into the torch that is here. uv then installs the folders by
# hard links, which is what makes a second set-up fast. A folder is whole once it holds a file
# "complete".
set -euo pipefail

fetched=$1 built=$2 log=$3
horovod_version=0.28.1
h5py_version=3.16.0
say() { printf 'hpcsamp:   %s\n' "$*"; }
exec 3>>"$log"

python=$HPCSAMP_VENV/bin/python
rm -f "$HPCSAMP_VENV/.hpcsamp-key"
if ! "$python" -c '' 2>/dev/null; then "$HPCSAMP_PYTHON" -m venv --clear "$HPCSAMP_VENV"; fi
pip=("$python" -m pip --disable-pip-version-check --quiet)

install() { # hard links need one file system; uv copies by itself where they do not work
    "$HPCSAMP_VENV/bin/uv" pip install --quiet --offline --no-index --no-deps --python "$python" \
        --cache-dir "$HPCSAMP_CACHE/uv" "$@" >&3 2>&3
}

requirements() { # the dependencies of setup.cfg, one a line, with the extras that a set-up needs
    "$HPCSAMP_PYTHON" - "$HPCSAMP_ROOT/setup.cfg" <<'P'
import configparser, sys
c = configparser.ConfigParser()
c.read(sys.argv[1])
lines = [c["options"]["install_requires"]] + [c["options.extras_require"][k] for k in ("mpi", "build", "test", "weather", "docs")]
print("\n".join(l for block in lines for l in block.splitlines() if l.strip() and not l.startswith("#")))
P
}

fetch() {
    say "fetching wheels (torch $HPCSAMP_TORCH, torchvision $HPCSAMP_TORCHVISION)"
    if ! command -v nvidia-smi >/dev/null && [ -z "$HPCSAMP_TORCH_INDEX" ]; then
        say "no GPU here: if your package index serves CUDA builds, point HPCSAMP_TORCH_INDEX at one with CPU builds"
    fi
    rm -rf "$fetched"
    mkdir -p "$fetched"
    requirements >"$fetched/requirements.txt"
    "${pip[@]}" wheel --wheel-dir "$fetched" ${HPCSAMP_TORCH_INDEX:+--extra-index-url "$HPCSAMP_TORCH_INDEX"} \
        "torch==$HPCSAMP_TORCH" "torchvision==$HPCSAMP_TORCHVISION" "h5py==$h5py_version" \
        -r "$fetched/requirements.txt" >&3 2>&3
    touch "$fetched/complete"
}

sdist() { # sdist NAME VERSION FOLDER: unpack a source distribution
    "${pip[@]}" download --no-deps --no-build-isolation --no-binary "$1" --dest "$3" "$1==$2" >&3 2>&3
    tar -xzf "$3/$1-$2.tar.gz" -C "$3" --strip-components=1
}

build_h5py() {
    CC=mpicc HDF5_MPI=ON "${pip[@]}" wheel --no-binary=h5py --no-build-isolation --no-deps \
        --no-cache-dir --wheel-dir "$built" "h5py==$h5py_version" >"$log.h5py" 2>&1
}

build_horovod() {
    local src=$1 gpu=()
    # 0.28.1 asks for C++14; torch has needed C++17 since 2.1 and C++20 since 2.14.
    local standard=17
    "$python" -c 'import sys; from packaging.version import Version as V; sys.exit(V(sys.argv[1]) < V("2.14"))' \
        "$HPCSAMP_TORCH" && standard=20
    sed -i "s/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD $standard/" \
        "$src/CMakeLists.txt" "$src/horovod/torch/CMakeLists.txt"
    if command -v nvcc >/dev/null && command -v nvidia-smi >/dev/null; then
        if [ -n "${HOROVOD_NCCL_HOME:-${NCCL_HOME:-}}" ] || [ -e /usr/include/nccl.h ]; then
            gpu=(HOROVOD_GPU_OPERATIONS=NCCL)
            if [ -n "${NCCL_HOME:-}" ]; then gpu+=("HOROVOD_NCCL_HOME=$NCCL_HOME"); fi
        else
            say "no NCCL found (set NCCL_HOME): Horovod will use MPI for GPU tensors"
        fi
    fi
    env HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1 \
        HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 "${gpu[@]}" \
        "${pip[@]}" wheel --no-build-isolation --no-deps --wheel-dir "$built" "$src" \
        >"$log.horovod" 2>&1
}

build() {
    local scratch failed=0 job jobs=()
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$scratch'" EXIT
    rm -rf "$built"
    mkdir -p "$built"
    # the venv's own tools (cmake, ninja) must be found by the builds
    export PATH=$HPCSAMP_VENV/bin:$PATH
    if [ -n "${HDF5_DIR:-}" ]; then
        say "building parallel h5py $h5py_version against $HDF5_DIR"
        build_h5py & jobs+=($!)
    fi
    if [ "$HPCSAMP_HOROVOD" = 1 ]; then
        say "building Horovod $horovod_version with $(mpirun --version | head -n 1)"
        { sdist horovod "$horovod_version" "$scratch" && build_horovod "$scratch"; } & jobs+=($!)
    fi
    for job in "${jobs[@]}"; do wait "$job" || failed=1; done
    if [ $failed = 1 ]; then
        tail -n 15 "$log".h5py "$log".horovod >&2 || true
        return 1
    fi
    touch "$built/complete"
}

# An index may serve torchvision for CUDA alone. Beside a CPU torch its compiled operations do not
# load, and its import ends in "operator torchvision::nms does not exist", because Python code refers
# to the schemas that they would have declared. With the schemas it is whole but for those operations.
patch_torchvision() {
    local scratch
    scratch=$(mktemp -d)
    "$python" -m wheel unpack --dest "$scratch" "$fetched"/torchvision-*.whl >&3 2>&3
    cat >>"$(echo "$scratch"/torchvision-*/torchvision/extension.py)" <<'P'


if not _has_ops():  # added when this wheel was repacked: the schemas that other files refer to
    _schemas = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _schemas.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
P
    mkdir -p "$repacked"
    "$python" -m wheel pack --dest-dir "$repacked" "$scratch"/torchvision-* >&3 2>&3
    rm -rf "$scratch"
}

imports_torchvision() { "$python" -c 'import torchvision' >&3 2>&3; }

[ -e "$fetched/complete" ] || fetch
say "installing"
if [ ! -x "$HPCSAMP_VENV/bin/uv" ]; then
    "${pip[@]}" install --no-index --no-deps "$fetched"/uv-*.whl >&3 2>&3
fi
repacked=$fetched/repacked
mapfile -t others < <(find "$fetched" -maxdepth 1 -name '*.whl' ! -name 'h5py-*' ! -name 'torchvision-*')
install "${others[@]}"
if ! compgen -G "$repacked/torchvision-*.whl" >/dev/null; then
    install --reinstall-package torchvision "$fetched"/torchvision-*.whl
    if ! imports_torchvision; then
        say "repacking torchvision, whose compiled operations do not load into this torch"
        patch_torchvision
    fi
fi
if compgen -G "$repacked/torchvision-*.whl" >/dev/null; then
    install --reinstall-package torchvision "$repacked"/torchvision-*.whl
    imports_torchvision || say "torchvision cannot be imported (see $log)"
fi
[ -e "$built/complete" ] || build
# h5py from the index is serial: it serves where no parallel HDF5 is
h5py=$built
[ -n "${HDF5_DIR:-}" ] || h5py=$fetched
mapfile -t compiled < <(find "$h5py" -name 'h5py-*.whl'; find "$built" -name 'horovod-*.whl')
install "${compiled[@]}"
install --no-build-isolation --editable "$HPCSAMP_ROOT"

#!/bin/bash
# envs/wheelhouse.sh DIR: collect in a folder all that a machine without a network needs.
#
#     bash envs/wheelhouse.sh DIR          here, with a network
#     bash DIR/install.sh VENV             there; then: source VENV/bin/activate
#
# The folder holds wheels of torch, of all dependencies and of hpcsamp, its sources with the tests,
# and the script that installs them. Run this with the Python version, and on the kind of processor,
# of the other machine. An MPI library does not travel: mpi4py uses the one that is there, and one
# process needs none. Settings, all optional:
#
#   HPCSAMP_PYTHON, HPCSAMP_TORCH, HPCSAMP_TORCHVISION    as in envs/local.sh
#   HPCSAMP_TORCH_INDEX   package index with the torch for the other machine, e.g. of CUDA builds
#   HPCSAMP_EXTRAS        extras of setup.cfg to take along (default mpi,test)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=envs/common.sh
source "$root/envs/common.sh"
_hpcsamp_settings
: "${HPCSAMP_EXTRAS:=mpi,test}"
folder=${1:?usage: wheelhouse.sh DIR}
mkdir -p "$folder/wheels"
folder=$(cd "$folder" && pwd)
rm -f "$folder/complete" "$folder"/wheels/hpcsamp-*.whl "$folder"/hpcsamp-*.tar.gz
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$HPCSAMP_PYTHON" -m venv "$scratch/venv"
python=$scratch/venv/bin/python
pip=("$python" -m pip --disable-pip-version-check --quiet)

_hpcsamp_say "building hpcsamp"
"${pip[@]}" install 'setuptools>=77,<81' wheel
(cd "$root" && tar --exclude=./.venv --exclude=./.git --exclude=./site --exclude=__pycache__ \
    --exclude='*.egg-info' -cf - .) | (mkdir "$scratch/source" && tar -xf - -C "$scratch/source")
(cd "$scratch/source" && "$python" -c "
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools changes sys.argv
build_meta.build_sdist(folder)
build_meta.build_wheel(folder + '/wheels')" "$folder" >"$scratch/log" 2>&1) ||
    { tail -n 15 "$scratch/log" >&2; exit 1; }

_hpcsamp_say "collecting wheels (torch $HPCSAMP_TORCH, torchvision $HPCSAMP_TORCHVISION)"
"${pip[@]}" wheel --wheel-dir "$folder/wheels" \
    ${HPCSAMP_TORCH_INDEX:+--extra-index-url "$HPCSAMP_TORCH_INDEX"} \
    "torch==$HPCSAMP_TORCH" "torchvision==$HPCSAMP_TORCHVISION" \
    "$(echo "$folder"/wheels/hpcsamp-*.whl)[$HPCSAMP_EXTRAS]"
# envs/build_wheels.sh repacks a torchvision for CUDA that is to be used beside a torch for CPUs
repacked=$(find "$HPCSAMP_CACHE"/fetched-*/repacked -name "torchvision-$HPCSAMP_TORCHVISION-*.whl" 2>/dev/null | head -n 1)
if [ -n "$repacked" ] && compgen -G "$folder/wheels/torch-*+cpu-*" >/dev/null; then
    cp "$repacked" "$folder/wheels/"
fi

"$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' >"$folder/python"
echo "$HPCSAMP_EXTRAS" >"$folder/extras"
cp "$root/envs/wheelhouse_install.sh" "$folder/install.sh"
touch "$folder/complete"
_hpcsamp_say "$(find "$folder/wheels" -name '*.whl' | wc -l) wheels, $(du -sh "$folder" | cut -f 1): copy $folder, then run there: bash $(basename "$folder")/install.sh VENV"

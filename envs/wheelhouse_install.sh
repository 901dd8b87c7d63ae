#!/bin/bash
# install.sh [VENV]: install hpcsamp from this folder into a virtual environment, without a network.
#
# Default: the folder venv beside this file. HPCSAMP_PYTHON names the Python to use. The sources, with
# the tests, are unpacked to VENV/source.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${1:-$here/venv}
python=${HPCSAMP_PYTHON:-python3}
fail() { printf 'hpcsamp: %s\n' "$*" >&2; exit 1; }

[ -e "$here/complete" ] || fail "$here is not complete: run envs/wheelhouse.sh to its end"
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "there is no $python"
wanted=$(cat "$here/python")
[ "$found" = "$wanted" ] || fail "these wheels are for Python $wanted, but $python is $found: set HPCSAMP_PYTHON"
"$python" -m venv "$venv"
own=$(echo "$here"/wheels/hpcsamp-*.whl)
"$venv/bin/python" -m pip --isolated --disable-pip-version-check --quiet install \
    --no-index --find-links "$here/wheels" "${own}[$(cat "$here/extras")]"
mkdir -p "$venv/source"
tar -xzf "$here"/hpcsamp-*.tar.gz -C "$venv/source" --strip-components=1
touch "$venv/.hpcsamp-wheelhouse" # tests/run.sh then sets up nothing
"$venv/bin/python" -c 'import torchvision' 2>/dev/null ||
    printf 'hpcsamp: torchvision cannot be imported beside this torch: its networks and transforms cannot be used\n' >&2
printf 'hpcsamp: installed; next: source %s/bin/activate && hpcsamp doctor\n' "$venv"
printf 'hpcsamp: tests on a GPU: cd %s/source && bash tests/run.sh -m gpu\n' "$venv"

#!/bin/bash
# tests/run.sh [PYTEST ARGUMENTS]: style, types and tests, those under real MPI included.
#
#     bash tests/run.sh                 everything
#     bash tests/run.sh -k losses       the tests of one room
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=envs/local.sh
source envs/local.sh
echo "hpcsamp: ruff, mypy"
ruff check .
ruff format --check .
mypy
if command -v shellcheck >/dev/null; then
    git ls-files -z 'envs/*.sh' 'jobscripts/*' 'tests/*.sh' '.ci/run' |
        xargs -0 -r grep -lZE '^#!/bin/(ba)?sh|^# shellcheck shell' | xargs -0 -r shellcheck -x
fi
exec python -m pytest "$@"

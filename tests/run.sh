#!/bin/bash
# tests/run.sh [PYTEST ARGUMENTS]: style, types and tests, those under real MPI included.
#
#     bash tests/run.sh                 everything, in two lanes side by side
#     bash tests/run.sh -k losses       the tests of one room
#     bash tests/run.sh -m gpu          those that need a GPU; elsewhere they are skipped
#
# In an environment of envs/wheelhouse.sh only the tests are run, and nothing is set up.
# Limits are for hangs: HPCSAMP_TEST_PATIENCE (default 5) times what a quiet machine needs at most.
# HPCSAMP_TEST_LANES (default 2): how many of them at once (tests/lanes.py).
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -e "${VIRTUAL_ENV:-/nowhere}/.hpcsamp-wheelhouse" ]; then
    # shellcheck source=envs/common.sh
    source envs/common.sh
    hpcsamp_one_machine
    exec python -m pytest "$@"
fi
# shellcheck source=envs/local.sh
source envs/local.sh
echo "hpcsamp: ruff, mypy, shellcheck"
ruff check .
ruff format --check .
mypy
if command -v shellcheck >/dev/null; then # the summary of the tests says so if not
    find envs jobscripts tests/*.sh tests/slurm .ci -type f -print0 |
        xargs -0 grep -lZE '^#!/bin/(ba)?sh|^# shellcheck shell' | xargs -0 shellcheck -x
fi
if (($#)); then
    exec python -m pytest "$@"
fi
exec python tests/lanes.py

#!/bin/bash
# jobscripts/local/train.sh: train on this machine, without a scheduler.
#
#     bash jobscripts/local/train.sh CONFIG RUN [OPTIONS OF hpcsamp train]
#
# RANKS is the number of ranks (default: the number of cores). Run the script again to continue a
# run that was stopped: after Ctrl-C, mpirun leaves one second for a checkpoint; after `kill -USR2`
# of this script the run has the time it needs. HPCSAMP_TIME_LIMIT stops it before a time limit.
# HPCSAMP_SITE: a file of envs/ (default local).
set -euo pipefail
HPCSAMP_ROOT=${HPCSAMP_ROOT:-$(cd "$(dirname "$0")/../.." && pwd)}
export HPCSAMP_ROOT
# shellcheck source=envs/local.sh
source "$HPCSAMP_ROOT/envs/${HPCSAMP_SITE:-local}.sh"
# shellcheck source=jobscripts/lib.sh
source "$HPCSAMP_ROOT/jobscripts/lib.sh"
hpcsamp_layout
hpcsamp_told

config=${1:?usage: train.sh CONFIG RUN [OPTIONS OF hpcsamp train]} run=${2:?name a run folder}
shift 2
hpcsamp_watch "$run"
code=0
hpcsamp_run hpcsamp train "$config" --output "$run" --resume "$@" || code=$?
hpcsamp_again "$code"
exit "$code"

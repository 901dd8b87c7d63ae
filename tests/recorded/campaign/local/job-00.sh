#!/bin/bash
#
# 4 points of sweep, 1 rank on 1 node, 1 core a rank, 16384 MiB a node, 02:00:00 each.
# One by hand: bash job-00.sh LINE (of points-00.tsv, from 0)
set -euo pipefail
shopt -s inherit_errexit

campaign=/home/user/project/campaigns/sweep
submission=/home/user/project/campaigns/sweep/submissions/0001
config=$submission/base.toml
index=${1:?which line of points-00.tsv, from 0?}

# One line of the table: the name of the point and its changes to the base configuration.
IFS=$'\t' read -r -a fields < <(sed -n "$((index + 1))p" "$submission/points-00.tsv")
name=${fields[0]}
point=$campaign/points/$name
settings=()
for field in "${fields[@]:1}"; do settings+=(--set "$field"); done
export HPCSAMP_END_TIME=$(($(date +%s) + 7200)) # training stops before this time

# The name of an empty file holds the state of the point: one listing of marks/ shows all points.
mark() {
    local before=
    if [ -r "$point/.mark" ]; then before=$(<"$point/.mark"); fi
    if [ -z "$before" ] || ! mv -f "$campaign/marks/$name.$before" "$campaign/marks/$name.$1" 2>/dev/null; then
        : >"$campaign/marks/$name.$1" || echo "campaign: cannot record that $name is $1" >&2
    fi
    printf '%s' "$1" >"$point/.mark" || true
    echo "$(date +%s) ${1%%.*} $log $starts" >>"$point/.times" || true # for hpcsamp campaign account
}

# What a point has reached: its checkpoints, or where there are none, its files and their sizes.
reached() {
    if [ -d "$point/checkpoints" ]; then
        ls "$point/checkpoints"
    else
        find "$point" -type f ! -name '.*' -printf '%P %s\n' 2>/dev/null | sort
    fi | cksum || true
}

# A new stall file means that a rank hung; the point is then restarted, at most three times, without
# the nodes that the file names.
stall() { cksum 2>/dev/null <"$point/stall.json" || true; }
of_stall() { grep -oP "^ \"$1\": \"?\K[^\"]*[^\",]" "$point/stall.json" || true; }
stalled=$(stall)

# Called with the exit code of a command that failed; 75: it stopped early with a checkpoint.
cancelled=
stop() {
    trap - EXIT
    local code=$1 exclude=
    if [ "$(stall)" != "$stalled" ] && [ "$(of_stall count)" -le 3 ]; then
        code=75 exclude=$(of_stall exclude)
        echo "campaign: a rank hung${exclude:+ on $exclude}, see $point/stall.json" >&2
    elif [ "$code" -eq 75 ] && [ -z "$cancelled" ]; then
        if [ "$(reached)" = "$before" ]; then
            echo "campaign: stopped early without progress since start $starts: not started again" >&2
            mark "failed.$code"
            exit 1
        elif [ "$starts" -gt 100 ]; then
            echo "campaign: stopped early in start $starts: not started again (retries = 100)" >&2
            mark "failed.$code"
            exit 1
        fi
    fi
    if [ "$code" -ne 75 ] && [ -z "$cancelled" ]; then
        mark "failed.$code"
        exit "$code"
    fi
    mark stopped
    # the runner starts this script again
    exit "$code"
}

# Run a command on the ranks of the point, in the background, because bash runs no trap while it
# waits for a command in the foreground.
launched=
told=
launch() {
    local code=0 again
    told=
    "$@" &
    launched=$!
    wait "$launched" || code=$?
    while [ -n "$told" ]; do # a trap interrupted wait, perhaps before the command ended
        told=
        again=0
        wait "$launched" 2>/dev/null || again=$?
        if [ "$again" -ne 127 ]; then code=$again; fi
    done
    launched=
    return "$code"
}
tell() {
    told=1
    if [ -n "$launched" ]; then kill -USR2 "$launched" 2>/dev/null || true; fi
}
trap tell USR2
trap 'cancelled=1; tell' TERM

cd /home/user/project
mkdir -p "$point" "$campaign/marks"
before=$(reached)

# Which start this is, so that the cause of a failure is searched in its part of the log.
log=0001/log-00-$index starts=0
if [ -r "$point/.start" ]; then read -r name_of_log count <"$point/.start" || true; fi
if [ "${name_of_log:-}" = "$log" ] && [[ ${count:-} =~ ^[0-9]+$ ]]; then starts=$count; fi
starts=$((starts + 1))
echo "$log $starts" >"$point/.start" || true
mark running
# Called at the end, also by an exit in a command, whose code it gets.
finish() {
    local code=$1 whole
    if [ "$code" -ne 0 ]; then stop "$code"; fi
    whole=$(hpcsamp campaign check "$point" summary.json evaluation/test.json) || stop $?
    trap - EXIT
    mark "done.$whole.30f2f0a7"
}
trap 'finish $?' EXIT
echo "campaign: start $starts of $name on ${HOSTNAME:-this machine}, $(date '+%F %T')"

export OMP_NUM_THREADS=1

if [ -s "$point/summary.json" ] && hpcsamp campaign check "$point" summary.json >/dev/null 2>&1; then
    echo "campaign: $name is trained, and not trained again"
else
    { launch hpcsamp train "$config" "${settings[@]}" --output "$point" --resume; } || stop $?
fi
{ launch hpcsamp evaluate "$point" --split test; } || stop $?

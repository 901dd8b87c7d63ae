# shellcheck shell=bash
# jobscripts/lib.sh: functions shared by the job scripts. Sourced after a file of envs/.
#
#     hpcsamp_layout            set RANKS, RANKS_PER_NODE, NODES, CORES per rank, from the allocation
#     hpcsamp_deadline          pass the end time of the job to the run
#     hpcsamp_told              log the job, its ranks, commit and modules
#     hpcsamp_stage FOLDER      copy shards to the nodes' own disks, from which the run then reads
#     hpcsamp_unstage           delete the copies
#     hpcsamp_run COMMAND       run on all ranks with srun, mpirun or mpiexec; forward signals
#     hpcsamp_scaling ...       train on 1, 2, 4 ... RANKS and print a table of the times
#     hpcsamp_watch RUN         remember the run's stall file, before hpcsamp_run
#     hpcsamp_again CODE        after 75 (stopped early with a checkpoint) or a new stall file (a rank
#                               hung), put the job back in the queue without the nodes that hung
#
# Settings, from the environment or a file of envs/:
#
#   HPCSAMP_LAUNCHER   launcher of the ranks: srun, mpirun (Open MPI) or mpiexec (PALS, MPICH)
#   HPCSAMP_BIND       cores (default if every rank has its own cores) or none
#   HPCSAMP_MPI        srun's --mpi (default pmix for Open MPI; empty: the default of the site)
#   HPCSAMP_LAUNCH     additional options of the launcher, a bash array
#   HPCSAMP_WRAPPER    command that wraps the ranks' command, e.g. to select a GPU, a bash array
#   HPCSAMP_LOCAL      folder on the nodes' own disks; if set, shards are copied there
#   HPCSAMP_REQUEUES   how often a job may go back to the queue (default 100)
#   HPCSAMP_STALLS     how often a run may stall and go back to the queue (default 3)

declare -a HPCSAMP_LAUNCH HPCSAMP_WRAPPER

_hpcsamp_log() { printf 'hpcsamp: %s\n' "$*"; }

# Hardware threads per core if the scheduler counts them as CPUs; else 1.
_hpcsamp_threads_per_cpu() {
    local node total per_core cores
    node=$(scontrol -o show node "${SLURMD_NODENAME:-$(hostname -s)}" 2>/dev/null) || { echo 1; return; }
    total=$(grep -oP '\bCPUTot=\K\d+' <<<"$node" || echo 1)
    per_core=$(grep -oP '\bThreadsPerCore=\K\d+' <<<"$node" || echo 1)
    cores=$(($(grep -oP '\bSockets=\K\d+' <<<"$node" || echo 1) * $(grep -oP '\bCoresPerSocket=\K\d+' <<<"$node" || echo 1)))
    if [ "$total" -gt "$cores" ]; then echo "$per_core"; else echo 1; fi
}

hpcsamp_layout() {
    local cpus
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        NODES=$SLURM_JOB_NUM_NODES
        RANKS=${RANKS:-${SLURM_NTASKS:-$NODES}}
        RANKS_PER_NODE=$(((RANKS + NODES - 1) / NODES))
        # CPUs requested per task, or else a share of the node's: "8(x2)" is 8 CPUs on 2 nodes
        cpus=${SLURM_JOB_CPUS_PER_NODE%%[!0-9]*}
        cpus=${SLURM_CPUS_PER_TASK:-$((cpus / RANKS_PER_NODE))}
        CPUS=$((cpus > 0 ? cpus : 1))
        CORES=$((CPUS / $(_hpcsamp_threads_per_cpu)))
    elif [ -n "${PBS_NODEFILE:-}" ]; then
        # one line per rank (mpiprocs), or one per node, and then RANKS_PER_NODE is set
        NODES=$(sort -u "$PBS_NODEFILE" | wc -l)
        RANKS_PER_NODE=${RANKS_PER_NODE:-$(($(wc -l <"$PBS_NODEFILE") / NODES))}
        RANKS=${RANKS:-$((NODES * RANKS_PER_NODE))}
        CPUS=$((${NCPUS:-$(nproc)} / RANKS_PER_NODE)) # PBS sets NCPUS, and OMP_NUM_THREADS
        CORES=$CPUS
    else
        NODES=1 RANKS=${RANKS:-$(nproc)} CPUS=0
        RANKS_PER_NODE=$RANKS
        CORES=$(($(nproc) / RANKS))
    fi
    CORES=$((CORES > 0 ? CORES : 1))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$CORES}
    : "${HPCSAMP_LAUNCHER:=$([ -n "${SLURM_JOB_ID:-}" ] && echo srun || echo mpirun)}"
}

# Recent versions of Slurm set SLURM_JOB_END_TIME themselves.
hpcsamp_deadline() {
    local end hours minutes seconds
    if [ -n "${SLURM_JOB_ID:-}" ] && [ -z "${SLURM_JOB_END_TIME:-}" ]; then
        end=$(scontrol -o show job "$SLURM_JOB_ID" | grep -oP '\bEndTime=\K\S+') &&
            end=$(date -d "$end" +%s 2>/dev/null) && export HPCSAMP_END_TIME=$end
    elif [ -n "${PBS_JOBID:-}" ]; then
        IFS=: read -r hours minutes seconds <<<"$(_hpcsamp_pbs Resource_List.walltime)"
        if [ -n "${seconds:-}" ]; then
            HPCSAMP_END_TIME=$(($(date +%s) + 10#$hours * 3600 + 10#$minutes * 60 + 10#$seconds))
            export HPCSAMP_END_TIME
        fi
    fi
    return 0
}

hpcsamp_told() {
    local commit
    commit=$(git -C "$HPCSAMP_ROOT" rev-parse --short HEAD 2>/dev/null || echo none)
    if [ -n "$(git -C "$HPCSAMP_ROOT" status --porcelain -uno 2>/dev/null)" ]; then commit+=" with changes"; fi
    _hpcsamp_log "$(date -Is) job ${SLURM_JOB_ID:-${PBS_JOBID:-none}}, start $((${SLURM_RESTART_COUNT:-0} + 1)), on ${SLURM_JOB_NODELIST:-$(hostname)}"
    _hpcsamp_log "$RANKS ranks on $NODES nodes by $HPCSAMP_LAUNCHER, $CORES cores and $OMP_NUM_THREADS threads each"
    _hpcsamp_log "commit $commit; modules ${LOADEDMODULES:-none}; $(command -v hpcsamp)"
}

# hpcsamp_launch RANKS COMMAND...: set LAUNCH to the launcher's command line for these ranks.
hpcsamp_launch() {
    local ranks=$1 bind=${HPCSAMP_BIND:-} per_node pmi
    shift
    per_node=$((ranks < RANKS_PER_NODE ? ranks : RANKS_PER_NODE))
    LAUNCH=("$HPCSAMP_LAUNCHER" -n "$ranks")
    case $HPCSAMP_LAUNCHER in
        srun)
            # Since Slurm 22.05, steps do not inherit --cpus-per-task.
            LAUNCH+=(--nodes="$(((ranks + RANKS_PER_NODE - 1) / RANKS_PER_NODE))" --cpus-per-task="$CPUS")
            LAUNCH+=(--cpu-bind="${bind:-cores}" --kill-on-bad-exit=1)
            pmi=${HPCSAMP_MPI-}
            if [ -z "${HPCSAMP_MPI+set}" ] && command -v ompi_info >/dev/null && srun --mpi=list 2>&1 | grep -qw pmix; then
                pmi=pmix # the interface that Open MPI uses
            fi
            if [ -n "$pmi" ]; then LAUNCH+=(--mpi="$pmi"); fi
            ;;
        mpirun)
            if [ -z "$bind" ] && [ $((per_node * CORES)) -gt "$(nproc)" ]; then bind=none; fi
            if [ -z "${SLURM_JOB_ID:-}${PBS_NODEFILE:-}" ] || [ "$bind" = none ]; then
                LAUNCH+=(--map-by "ppr:$per_node:node" --bind-to none)
            else
                LAUNCH+=(--map-by "ppr:$per_node:node:PE=$CORES" --bind-to core)
            fi
            ;;
        mpiexec) LAUNCH+=(--ppn "$per_node" --depth "$CORES" --cpu-bind "${HPCSAMP_BIND:-depth}") ;;
        *)
            _hpcsamp_log "HPCSAMP_LAUNCHER=$HPCSAMP_LAUNCHER is not srun, mpirun or mpiexec" >&2
            return 2
            ;;
    esac
    LAUNCH+=("${HPCSAMP_LAUNCH[@]}" "${HPCSAMP_WRAPPER[@]}" "$@")
}

# hpcsamp_run COMMAND...: run it on all RANKS and return its exit code. The launcher runs in the
# background, because bash runs no trap while it waits for a command in the foreground. The ranks
# of srun get their signals from Slurm; mpirun forwards the signals that it receives.
hpcsamp_run() {
    local code=0 child
    hpcsamp_launch "$RANKS" "$@" || return
    _hpcsamp_log "${LAUNCH[*]}"
    "${LAUNCH[@]}" &
    child=$!
    HPCSAMP_CANCELLED=
    if [ "$HPCSAMP_LAUNCHER" = srun ]; then
        trap 'HPCSAMP_CANCELLED=1' TERM
    else
        # shellcheck disable=SC2064
        trap "HPCSAMP_CANCELLED=1; kill -USR2 $child" TERM
    fi
    # shellcheck disable=SC2064
    trap "kill -USR2 $child" USR2
    wait "$child" || code=$?
    while kill -0 "$child" 2>/dev/null; do # a trap interrupts wait
        code=0
        wait "$child" || code=$?
    done
    trap - TERM USR2
    return "$code"
}

# _hpcsamp_each_node COMMAND...: run a command once on every node.
_hpcsamp_each_node() {
    case $HPCSAMP_LAUNCHER in
        srun) srun --mpi=none --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 "$@" ;;
        mpirun) if [ "$NODES" = 1 ]; then "$@"; else mpirun -n "$NODES" --map-by ppr:1:node "$@"; fi ;;
        mpiexec) mpiexec -n "$NODES" --ppn 1 "$@" ;;
    esac
}

# hpcsamp_stage FOLDER: copy a dataset to HPCSAMP_LOCAL once per node and compare every checksum
# there. The run reads the copy, or, after a warning, the original if copying failed on any node; it
# records the path of the original.
hpcsamp_stage() {
    [ -n "${HPCSAMP_LOCAL:-}" ] || return 0
    local began=$SECONDS
    HPCSAMP_STAGED=$HPCSAMP_LOCAL/hpcsamp-${SLURM_JOB_ID:-${PBS_JOBID:-$$}}
    if _hpcsamp_each_node bash "$HPCSAMP_ROOT/jobscripts/stage.sh" "$1" "$HPCSAMP_STAGED/$(basename "$1")"; then
        HPCSAMP_STAGED_DATA=$HPCSAMP_STAGED/$(basename "$1")
        export HPCSAMP_STAGED_DATA
        _hpcsamp_log "staged $1 to $HPCSAMP_STAGED_DATA on $NODES nodes in $((SECONDS - began)) s, every checksum compared"
    else
        _hpcsamp_log "WARNING: $1 could not be staged to every node: reading the original" >&2
    fi
}

# Delete the copies on all nodes that the job still has.
hpcsamp_unstage() {
    if [ -n "${HPCSAMP_STAGED:-}" ]; then _hpcsamp_each_node rm -rf "$HPCSAMP_STAGED" || true; fi
}

# One attribute of this job, e.g. Resource_List.walltime; PBS folds long lines.
_hpcsamp_pbs() { qstat -f "$PBS_JOBID" 2>/dev/null | sed -e ':a' -e 'N' -e '$!ba' -e 's/\n\t//g' | sed -n "s/^ *$1 = //p"; }

# Only operators may rerun a PBS job; submit a copy with the same queue, resources and variables.
_hpcsamp_qsub_again() {
    local options=() name value kept
    for name in queue:-q Account_Name:-A Job_Name:-N; do
        value=$(_hpcsamp_pbs "${name%:*}")
        if [ -n "$value" ]; then options+=("${name#*:}" "$value"); fi
    done
    for name in select walltime place filesystems; do
        value=$(_hpcsamp_pbs "Resource_List.$name")
        if [ -n "$value" ]; then options+=(-l "$name=$value"); fi
    done
    kept=$(compgen -e -X '!HPCSAMP_*' | grep -vE '^HPCSAMP_(END_TIME|RESTARTS|STAGED_DATA)$' | paste -sd , -)
    (cd "$PBS_O_WORKDIR" && qsub "${options[@]}" -v "CONFIG,RUN,OPTIONS,HPCSAMP_RESTARTS=$1,$kept" \
        "$HPCSAMP_ROOT/jobscripts/pbs/train.pbs")
}

# hpcsamp_watch RUN: remember the content of the run's stall file, to detect a new one.
hpcsamp_watch() {
    HPCSAMP_STALL=$1/stall.json
    _HPCSAMP_STALL=$(_hpcsamp_mark)
}
_hpcsamp_mark() { cksum 2>/dev/null <"$HPCSAMP_STALL" || true; }
_hpcsamp_stall() { grep -oP "^ \"$1\": \"?\K[^\"]*[^\",]" "$HPCSAMP_STALL" || true; }

# hpcsamp_again CODE: put the job back in the queue after code 75, or after any code if there is a new
# stall file (srun may hide the code); the job then resumes without the nodes that hung. A job that is
# being cancelled is not requeued, and the number of requeues is limited.
hpcsamp_again() {
    local starts=$((${SLURM_RESTART_COUNT:-${HPCSAMP_RESTARTS:-0}} + 1)) exclude='' stalls job before ended=''
    local why="stopped early with a checkpoint"
    [ -z "${HPCSAMP_CANCELLED:-}" ] || return 0
    if [ "$1" != 0 ] && [ "$(_hpcsamp_mark)" != "$_HPCSAMP_STALL" ]; then
        stalls=$(_hpcsamp_stall count) exclude=$(_hpcsamp_stall exclude)
        why="stalled${exclude:+ on $exclude} (see $HPCSAMP_STALL)"
        if [ "$stalls" -gt "${HPCSAMP_STALLS:-3}" ]; then
            _hpcsamp_log "$why, $stalls times: not again (HPCSAMP_STALLS)"
            return 0
        fi
    elif [ "$1" != 75 ]; then
        return 0
    fi
    if [ -z "${SLURM_JOB_ID:-}${PBS_JOBID:-}" ]; then
        _hpcsamp_log "$why: run the same again"
    elif [ "$starts" -gt "${HPCSAMP_REQUEUES:-100}" ]; then
        _hpcsamp_log "$why, and started $starts times: not again (HPCSAMP_REQUEUES)"
    elif [ -n "${PBS_JOBID:-}" ]; then
        _hpcsamp_log "$why: submitted anew: $(_hpcsamp_qsub_again "$starts")"
    elif job=$(scontrol -o show job "$SLURM_JOB_ID") && grep -q ' JobState=RUNNING ' <<<"$job"; then
        _hpcsamp_log "$why: requeued"
        before=$(grep -oP '\bExcNodeList=\K[^ (]+' <<<"$job" || true)
        trap 'ended=1' TERM
        ( # only a job in the queue can exclude nodes, and requeuing ends this script
            trap '' TERM
            scontrol requeue "$SLURM_JOB_ID"
            if [ -z "$exclude" ]; then exit; fi
            scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=${before:+$before,}$exclude"
        )
        if [ -z "$ended" ]; then sleep 60; fi
    fi
}

# hpcsamp_scaling CONFIG FOLDER STEPS [OPTIONS]: write FOLDER/scaling.csv; a number of ranks that fails
# is reported and left out.
hpcsamp_scaling() {
    local config=$1 folder=$2 steps=$3 all=$RANKS sizes=() n
    shift 3
    mkdir -p "$folder"
    for ((n = 1; n < RANKS_PER_NODE; n *= 2)); do sizes+=("$n"); done
    for ((n = RANKS_PER_NODE; n < all; n *= 2)); do sizes+=("$n"); done # whole nodes
    echo "ranks,data_groups,sample_ranks,seconds_per_step,items_per_second" >"$folder/scaling.csv"
    for n in "${sizes[@]}" "$all"; do
        rm -rf "$folder/ranks-$n"
        RANKS=$n hpcsamp_run hpcsamp train "$config" --output "$folder/ranks-$n" \
            --set "training.steps=$steps" "$@" || { _hpcsamp_log "$n ranks failed" >&2; continue; }
        python - "$folder/ranks-$n/summary.json" >>"$folder/scaling.csv" <<'P'
import json, sys
s = json.load(open(sys.argv[1]))
keys = "world_size", "data_group_size", "sample_group_size", "seconds_per_step", "items_per_second"
print(*(s[k] for k in keys), sep=",")
P
    done
    _hpcsamp_log "$folder/scaling.csv:"
    cat "$folder/scaling.csv"
    [ "$(wc -l <"$folder/scaling.csv")" -gt 1 ]
}

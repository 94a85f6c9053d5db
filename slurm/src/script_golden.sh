#!/bin/bash
# wrf-fire: made by carrack 0.1.0 from wrf.toml. Plain bash: read it, change it, submit it with sbatch.
#SBATCH --job-name=wrf-fire
#SBATCH --nodes=2
#SBATCH --output=wrf-fire-%j.out

# Not -e: after a failed step the end of this script must still run, so each step is checked instead.
set -uo pipefail
record=$PWD/wrf-fire-$SLURM_JOB_ID.json

# A directory of this job alone on each node's own disk; it goes when the job ends.
export TMPDIR=${TMPDIR:-/tmp}/carrack-$SLURM_JOB_ID

# By digest: what was checked is what runs, wherever its tag points by then.
image=docker://site.eu/wrf@sha256:12ab
container=(
    --bind /work/project:/data:ro
    --bind "$TMPDIR"
)

# Before a command: runs it once on each node, beside the steps and without taking anything from them.
every_node=(srun --overlap --mem=0 --gres=none --job-name=nodes --nodes="$SLURM_JOB_NUM_NODES"
    --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1)
keeper=
prepared=

# Whether processes of a step other than this one are still here.
others() {
    local file
    for file in $(grep -slxz "SLURM_JOB_ID=$SLURM_JOB_ID" /proc/[0-9]*/environ); do
        ! grep -sqz ^SLURM_STEP_ID= "$file" || grep -sqxz "SLURM_STEP_ID=${SLURM_STEP_ID-none}" "$file" || return 0
    done
    return 1
}

# The tasks of a job that was cancelled may still be writing their last results.
await_tasks() {
    local try
    for ((try = 0; try < 100; try++)); do
        others || break
        sleep 0.2
    done
}

# Copies a file or a directory to exactly this path.
copy() {
    mkdir -p -- "$(dirname -- "$2")" && cp -aHT -- "$1" "$2" || {
        echo "the [[stage]] from $1 to $2 failed on $(hostname)" >&2
        return 1
    }
}

# Copies a result home. What failed or was cancelled may not have made it yet.
bring() {
    if ((code)) && [[ ! -e $1 && ! -L $1 ]]; then
        echo "there is no $1 on $(hostname) to copy" >&2
    else
        copy "$1" "$2"
    fi
}

# Removes a directory, also if the input in it is read-only.
remove() {
    [[ ! -e $1 ]] || { chmod -R u+rwX -- "$1" && rm -rf -- "$1"; }
}

# Waits on each of the other nodes for the end of the job. Slurm says when that is, also if it starts nothing more because
# the job was cancelled; this script says so too. Then brings the node's results home and removes the job's directory.
keep_node() {
    trap 'leave_node 143' TERM
    trap 'leave_node 0' USR1
    trap 'leave_node 1' USR2
    mkdir -p -m 700 -- "$TMPDIR" && echo made || echo failed
    while :; do
        sleep 3600 &
        wait
    done
}

leave_node() {
    local code=$1 kept=
    # From here on no signal ends anything, also no program that is started: a second one often follows the first.
    trap '' TERM USR1 USR2
    ((code != 143)) || await_tasks
    if [[ -n $kept ]]; then
        echo "not all results of $SLURMD_NODENAME could be copied; they stay in $TMPDIR there" >&2
    else
        remove "$TMPDIR" || kept=$TMPDIR
    fi
    kill "$!" 2>/dev/null
    [[ -z $kept ]] || exit 1
    exit 0
}

# Waits for a process, also if a signal comes meanwhile, and gives its code.
await() {
    local code
    wait "$1"
    code=$?
    while kill -0 "$1" 2>/dev/null; do
        wait "$1"
        code=$?
    done
    return "$code"
}

# Runs a command in the background, because bash acts on a signal only when nothing runs in the foreground.
running=
attend() {
    local code
    "$@" <&0 &
    running=$!
    wait "$running"
    code=$?
    running=
    return "$code"
}

# Runs a step and adds it to the record.
step=nodes
step() {
    local start code
    step=$1
    shift
    start=$(date +%s)
    attend "$@"
    code=$?
    carrack record step "$record" --name "$step" --start "$start" --code "$code" -- "$@"
    return "$code"
}

# Tells the running step to end. Through Slurm, because srun would kill its tasks; that is for those who do not listen.
stop() {
    local id try quiet=0
    if [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T 2>/dev/null) == COMPLETING ]]; then
        # Slurm ends the job and has told everybody. An srun whose tasks had not all started would now wait longer for them
        # than Slurm waits for this script, so it is left soon after the last task here.
        for ((try = 0; try < 100 && quiet < 5; try++)); do
            kill -0 "$running" 2>/dev/null || return
            [[ $(cat "/proc/$running/comm" 2>/dev/null) != srun ]] || others || ((++quiet))
            sleep 0.2
        done
        return
    fi
    id=$(squeue --noheader --steps --jobs="$SLURM_JOB_ID" --format='%i %j' 2>/dev/null | sed -n "s/ $step\$//p")
    if [[ -n $id ]]; then
        scancel --signal=TERM "$id" 2>/dev/null
        { sleep 15; kill -TERM "$running"; } 2>/dev/null &
    else
        kill -TERM "$running"
    fi
    await "$running"
}

# Runs once, however the job ends: all steps done, a step failed, cancelled, or out of time.
finish() {
    local code=$? kept=
    trap - EXIT
    # From here on no signal ends anything, also no program that is started.
    trap '' TERM INT
    [[ -z $running ]] || stop
    if [[ -n $keeper ]]; then
        if ((code)); then kill -USR2 "$keeper"; else kill -USR1 "$keeper"; fi 2>/dev/null
    fi
    bring "$TMPDIR/out" /work/out || kept=$TMPDIR
    if [[ -n $kept ]]; then
        echo "wrf-fire: not all results could be copied; they stay in $kept on $(hostname)" >&2
    else
        remove "$TMPDIR"
    fi
    # One that was not ready has nothing, and its srun may wait for tasks that never start.
    [[ -z $prepared ]] || await "$keeper" || kept=$TMPDIR
    [[ -z $kept ]] || ((code)) || code=1
    carrack record finish "$record" --code "$code" --kept "$kept"
    exit "$code"
}

trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

carrack record start "$record" --script "$0" --image "$image" --input '/work/in put' --output /work/out --kept "$TMPDIR"
mkdir -p -m 700 -- "$TMPDIR" || exit
if ((SLURM_JOB_NUM_NODES > 1)); then
    exec {nodes}< <(exec "${every_node[@]}" --quiet --job-name=keeper --exclude="$SLURMD_NODENAME" \
        --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) \
        bash -c "$(declare -f others await_tasks copy bring remove keep_node leave_node)"'; keep_node')
    keeper=$!
    for ((node = 1; node < SLURM_JOB_NUM_NODES; node++)); do
        read -r -u "$nodes" made && [[ $made == made ]] || exit
    done
    prepared=1
fi

# Bring the input.
copy '/work/in put' "$TMPDIR/input" || exit

step ideal srun --job-name=ideal --nodes=1 --ntasks=1 carrack exec "${container[@]}" "$image" -- ./ideal.exe || exit

step wrf env OMP_NUM_THREADS=2 srun --job-name=wrf --mpi=pmix carrack exec "${container[@]}" "$image" -- ./wrf.exe \
    'it'\''s' || exit

step tidy srun --job-name=tidy rm -f 'x y' || exit

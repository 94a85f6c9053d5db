//! The functions of a job script that are the same in every one that has them.

pub const EVERY_NODE: &str = r#"# Before a command: runs it once on each node, beside the steps and without taking anything from them.
every_node=(srun --overlap --mem=0 --gres=none --job-name=nodes --nodes="$SLURM_JOB_NUM_NODES"
    --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1)
keeper=

"#;

pub const KEEPER_HEAD: &str = r#"# Waits on each node for the end of the job. Slurm says when that is, also if it starts nothing more because the job was
# cancelled; this script says so too. Then brings this node's results home and removes the job's directory.
keep_node() {
    trap 'leave_node 50' TERM
    trap leave_node USR1
    mkdir -p -m 700 -- "$TMPDIR" && echo made || echo failed
    while :; do
        sleep 3600 &
        wait
    done
}

# Whether processes of a step other than this one are still here.
others() {
    local file
    for file in $(grep -slxz "SLURM_JOB_ID=$SLURM_JOB_ID" /proc/[0-9]*/environ); do
        ! grep -sqz ^SLURM_STEP_ID= "$file" || grep -sqxz "SLURM_STEP_ID=$SLURM_STEP_ID" "$file" || return 0
    done
    return 1
}

leave_node() {
    local code=0 try
    trap : TERM USR1
    # The steps of a job that was cancelled may still be writing their last results.
    for ((try = 0; try < ${1:-0}; try++)); do
        others || break
        sleep 0.2
    done
"#;

/// The batch script's own node has more to copy before its directory goes.
pub const KEEPER_TAIL: &str = r#"    if ((code)); then
        echo "not all results of $SLURMD_NODENAME could be copied; they stay in $TMPDIR there" >&2
    elif [[ $SLURMD_NODENAME != "$batch_node" ]]; then
        remove "$TMPDIR" || code=1
    fi
    kill "$!" 2>/dev/null
    exit "$code"
}

"#;

pub const START_KEEPER: &str = r#"exec {nodes}< <(batch_node=$SLURMD_NODENAME exec "${every_node[@]}" --quiet \
    bash -c "$(declare -f copy remove keep_node others leave_node)"'; keep_node')
keeper=$!
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
    read -r -u "$nodes" made && [[ $made == made ]] || exit
done
"#;

pub const COPY: &str = r#"# Copies a file or a directory to exactly this path.
copy() {
    mkdir -p -- "$(dirname -- "$2")" && cp -aHT -- "$1" "$2"
}

"#;

pub const REMOVE: &str = r#"# Removes a directory, also if the input in it is read-only.
remove() {
    [[ ! -e $1 ]] || { chmod -R u+rwX -- "$1" && rm -rf -- "$1"; }
}

"#;

pub const STEP: &str = r#"# Waits for a process, also if a signal comes meanwhile, and gives its code.
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

# Runs a step. In the background, because bash acts on a signal only when nothing runs in the foreground.
running=
step() {
    local start code
    step=$1
    shift
    start=$(date +%s)
    "$@" <&0 &
    running=$!
    wait "$running"
    code=$?
    running=
    carrack record step "$record" --name "$step" --start "$start" --code "$code" -- "$@"
    return "$code"
}

"#;

pub const STOP: &str = r#"# Tells the running step to end. Through Slurm, because srun would kill its tasks; that is for those who do not listen.
stop() {
    local id
    id=$(squeue --noheader --steps --jobs="$SLURM_JOB_ID" --format='%i %j' 2>/dev/null | sed -n "s/ $step\$//p")
    if [[ -n $id ]]; then
        scancel --signal=TERM "$id" 2>/dev/null
        { sleep 15; kill -TERM "$running"; } 2>/dev/null &
    else
        kill -TERM "$running"
    fi
    await "$running"
}

"#;

pub const STOP_HERE: &str = r#"# Tells the running step to end.
stop() {
    kill -TERM "$running"
    await "$running"
}

"#;

pub const FINISH_HEAD: &str = r#"# Runs once, however the job ends: all steps done, a step failed, cancelled, or out of time.
finish() {
    local code=$? kept=
    trap - EXIT
    trap : TERM INT
    [[ -z $running ]] || stop
"#;

pub const TRAPS: &str = r#"trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

"#;

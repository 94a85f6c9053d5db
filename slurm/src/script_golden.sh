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

# Runs a command once on each node.
every_node() {
    srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$@"
}

# Copies a file or a directory to exactly this path.
copy() {
    mkdir -p -- "$(dirname -- "$2")" && cp -aHT -- "$1" "$2"
}

# Removes a directory, also if the input in it is read-only.
remove() {
    [[ ! -e $1 ]] || { chmod -R u+rwX -- "$1" && rm -rf -- "$1"; }
}

# Runs a step. In the background, because bash acts on a signal only when nothing runs in the foreground.
running=
step() {
    local name=$1 start code
    shift
    start=$(date +%s)
    "$@" <&0 &
    running=$!
    wait "$running"
    code=$?
    running=
    carrack record step "$record" --name "$name" --start "$start" --code "$code" -- "$@"
    return "$code"
}

# Runs once, however the job ends: all steps done, a step failed, cancelled, or out of time.
finish() {
    local code=$? kept=
    trap - EXIT
    trap : TERM INT
    if [[ -n $running ]]; then
        kill -TERM "$running"
        wait "$running"
    fi
    copy "$TMPDIR/out" /work/out || kept=$TMPDIR
    if [[ -n $kept ]]; then
        echo "wrf-fire: not all results could be copied; they stay in $kept on $(hostname)" >&2
        ((code)) || code=1
    fi
    if [[ -z $kept ]]; then
        # Slurm starts nothing more for a job that was cancelled; then only this node is cleaned.
        every_node bash -c "$(declare -f remove)"'; remove "$1"' - "$TMPDIR" 2>/dev/null
        remove "$TMPDIR"
    fi
    carrack record finish "$record" --code "$code" --kept "$kept"
    exit "$code"
}

trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

carrack record start "$record" --script "$0" --image "$image" --input '/work/in put'
every_node mkdir -p -m 700 -- "$TMPDIR" || exit

# Bring the input.
copy '/work/in put' "$TMPDIR/input" || exit

step ideal srun --nodes=1 --ntasks=1 carrack exec "${container[@]}" "$image" -- ./ideal.exe || exit

step wrf env OMP_NUM_THREADS=2 srun --mpi=pmix carrack exec "${container[@]}" "$image" -- ./wrf.exe 'it'\''s' \
    || exit

step tidy srun rm -f 'x y' || exit

#!/bin/bash
# A script written by hand, as for any other program: the only new words are `carrack exec IMAGE`.
# Submit it with `sbatch examples/submit.sh` after `carrack pull docker://debian:12`; what it writes lands here.
#SBATCH --job-name=by-hand
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=00:05:00

srun carrack exec docker://debian:12 ./run.sh

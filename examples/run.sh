#!/bin/bash
# What `submit.sh` runs in each task, inside the image; it lies beside that script, on the shared file system.
# Debian's own version says where it runs, the file it leaves belongs to whoever submitted it.
echo "task $SLURM_PROCID on $(hostname) in Debian $(cat /etc/debian_version)"
date >"rsl.out.$(printf %04d "$SLURM_PROCID")"

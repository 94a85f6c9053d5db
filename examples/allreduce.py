#!/usr/bin/python3
# What the image of `mpi.toml` runs: every rank adds its number to those of all others, and says where it ran.
# The image needs Open MPI, numpy and mpi4py; on a Debian: apt-get install openmpi-bin python3-numpy python3-mpi4py
import glob
import os

import numpy
from mpi4py import MPI

world = MPI.COMM_WORLD
mine = numpy.full(1000, world.rank + 1.0)
sum = numpy.empty_like(mine)
world.Allreduce(mine, sum)
right = world.size * (world.size + 1) / 2
assert (sum == right).all(), sum
gpus = sorted(os.path.basename(path) for path in glob.glob("/dev/nvidia[0-9]*"))
print(f"rank {world.rank} of {world.size} on {os.uname().nodename}: sum {sum[0]:g}, GPUs: {' '.join(gpus) or 'none'}")

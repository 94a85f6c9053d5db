#define _GNU_SOURCE
/* Ranks of one node as MPI libraries use them: large messages with default settings, and each other's memory and files. */
#include <mpi.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 1 << 20, ROUNDS = 8 };

int main(int argc, char **argv)
{
    int rank, ranks, wrong = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int *out = malloc(COUNT * sizeof *out), *in = malloc(COUNT * sizeof *in);
    int right = (rank + 1) % ranks, left = (rank + ranks - 1) % ranks;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < COUNT; i++)
            out[i] = rank * 31 + round + i;
        MPI_Sendrecv(out, COUNT, MPI_INT, right, 0, in, COUNT, MPI_INT, left, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        for (int i = 0; i < COUNT; i++)
            wrong |= in[i] != left * 31 + round + i;
    }
    long mine[2] = { getpid(), (long)out }, theirs[2];
    MPI_Sendrecv(mine, 2, MPI_LONG, right, 1, theirs, 2, MPI_LONG, left, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    int word = -1;
    struct iovec here = { &word, sizeof word }, there = { (void *)theirs[1], sizeof word };
    int memory = process_vm_readv(theirs[0], &here, 1, &there, 1, 0) == sizeof word && word == left * 31 + ROUNDS - 1;
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/fd/1", theirs[0]);
    int file = open(path, O_WRONLY) >= 0;
    /* One after the other: a traced process waits. */
    int traced = 0;
    for (int turn = 0; turn < ranks; turn++) {
        MPI_Barrier(MPI_COMM_WORLD);
        if (turn == rank && ranks > 1) {
            traced = ptrace(PTRACE_ATTACH, theirs[0], 0, 0) == 0;
            traced = traced && waitpid(theirs[0], NULL, __WALL) == theirs[0];
            traced = traced && ptrace(PTRACE_DETACH, theirs[0], 0, 0) == 0;
        }
    }
    printf("rank %d of %d: messages %s, memory %s, files %s, ptrace %s\n", rank, ranks, wrong ? "wrong" : "right",
           memory ? "read" : "closed", file ? "open" : "closed", traced ? "works" : "refused");
    MPI_Finalize();
    return wrong || !memory || !file || !traced;
}

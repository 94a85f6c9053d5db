// One line per rank: where it ran and whether the sum over all ranks is right; `wait FILE` first waits for a file, so that
// two jobs can be on the nodes at the same time; `version` first tells whose MPI it is. Two ranks of a node also read each other's memory, as MPI's shared
// memory transports do.
#define _GNU_SOURCE
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int rank, size, local_rank, local_size, i;
    static double mine[100000], sum[100000];
    char name[MPI_MAX_PROCESSOR_NAME], file[64];
    const char *memory = "alone";
    MPI_Comm local;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(name, &i);
    if (argc > 1 && !strcmp(argv[1], "version") && rank == 0) {
        static char version[MPI_MAX_LIBRARY_VERSION_STRING];
        MPI_Get_library_version(version, &i);
        printf("%.*s\n", (int)strcspn(version, "\n"), version);
    }
    while (argc > 2 && !strcmp(argv[1], "wait") && access(argv[2], F_OK))
        usleep(20000);
    for (i = 0; i < 100000; i++)
        mine[i] = rank + 1;
    MPI_Allreduce(mine, sum, 100000, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    for (i = 0; i < 100000 && sum[i] == size * (size + 1) / 2.0; i++)
        ;

    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local);
    MPI_Comm_rank(local, &local_rank);
    MPI_Comm_size(local, &local_size);
    if (local_size > 1) {
        long own[2] = {getpid(), (long)mine}, other[2];
        double value = 0;
        int next = (local_rank + 1) % local_size, before = (local_rank + local_size - 1) % local_size, their_rank;
        MPI_Sendrecv(own, 2, MPI_LONG, before, 0, other, 2, MPI_LONG, next, 0, local, MPI_STATUS_IGNORE);
        MPI_Sendrecv(&rank, 1, MPI_INT, before, 1, &their_rank, 1, MPI_INT, next, 1, local, MPI_STATUS_IGNORE);
        struct iovec here = {&value, sizeof value}, there = {(void *)other[1], sizeof value};
        memory = process_vm_readv(other[0], &here, 1, &there, 1, 0) == sizeof value && value == their_rank + 1 ? "read" : "refused";
        MPI_Barrier(local);
    }
    printf("rank %d of %d on %s: %s, memory %s\n", rank, size, name, i == 100000 ? "right" : "WRONG", memory);
    // What a weather model leaves in the directory that it was started in.
    snprintf(file, sizeof file, "rsl.out.%04d", rank);
    if (getenv("WRITE_RSL")) {
        FILE *out = fopen(file, "w");
        if (!out || fprintf(out, "SUCCESS COMPLETE rank %d\n", rank) < 0 || fclose(out))
            return 1;
    }
    MPI_Finalize();
    return 0;
}

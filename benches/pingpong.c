// Two ranks play ping-pong: the best latency of 8 bytes in microseconds, the best bandwidth of 1 MiB and of 4 MiB in MB/s.
//
// Of many short batches the best one counts: what else the machine does can only make a batch slower.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double best(int rank, char *buffer, int size, int batches, int rounds)
{
    double least = 1e9;
    for (int batch = 0; batch < batches; batch++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        for (int i = 0; i < rounds; i++) {
            if (rank == 0) {
                MPI_Send(buffer, size, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
                MPI_Recv(buffer, size, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            } else {
                MPI_Recv(buffer, size, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                MPI_Send(buffer, size, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
            }
        }
        double one_way = (MPI_Wtime() - start) / rounds / 2;
        if (one_way < least)
            least = one_way;
    }
    return least;
}

int main(int argc, char **argv)
{
    const int large = 4 << 20;
    int rank, size;
    char *buffer = malloc(large);

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != 2 || !buffer) {
        fprintf(stderr, "pingpong: needs two ranks, this is rank %d of %d\n", rank, size);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    memset(buffer, 1, large);
    double latency = best(rank, buffer, 8, 100, 200);
    double one = best(rank, buffer, 1 << 20, 40, 8);
    double four = best(rank, buffer, large, 20, 4);
    if (rank == 0)
        printf("%.3f %.0f %.0f\n", latency * 1e6, (1 << 20) / one / 1e6, large / four / 1e6);
    MPI_Finalize();
    return 0;
}

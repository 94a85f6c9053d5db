// The smallest client of PMI2: each rank puts its number, all fence, and each reads its neighbour's.
#include <slurm/pmi2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
    int spawned, size, rank, appnum, length;
    char key[32], value[32], expected[32], job[256];

    if (PMI2_Init(&spawned, &size, &rank, &appnum) != PMI2_SUCCESS)
        return 3;
    PMI2_Job_GetId(job, sizeof job);
    snprintf(key, sizeof key, "key-%d", rank);
    snprintf(value, sizeof value, "value-%d", rank);
    if (PMI2_KVS_Put(key, value) != PMI2_SUCCESS || PMI2_KVS_Fence() != PMI2_SUCCESS)
        return 4;
    snprintf(key, sizeof key, "key-%d", (rank + 1) % size);
    snprintf(expected, sizeof expected, "value-%d", (rank + 1) % size);
    if (PMI2_KVS_Get(job, PMI2_ID_NULL, key, value, sizeof value, &length) != PMI2_SUCCESS)
        return 5;
    printf("rank %d of %d: %s\n", rank, size, strcmp(value, expected) ? "WRONG" : "right");
    PMI2_Finalize();
    return 0;
}

/* A driver library as the tests need one: two whole devices, one that is partitioned, one that has fallen off the bus. */

#include <stdlib.h>
#include <string.h>

enum { DONE = 0, NOT_SUPPORTED = 3, GPU_LOST = 15, N_DEVICES = 4 };
static int numbers[N_DEVICES] = {0, 1, 2, 3};

int nvmlInit_v2(void) { return getenv("MADE_NVML_INIT") ? atoi(getenv("MADE_NVML_INIT")) : DONE; }
int nvmlInitWithFlags(unsigned flags) { return nvmlInit_v2(); }
int nvmlShutdown(void) { return DONE; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = N_DEVICES; return DONE; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = &numbers[index];
    return index == 3 ? GPU_LOST : DONE;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned size) {
    strcpy(uuid, "GPU-made-0");
    uuid[9] += *(int *)handle;
    return DONE;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned size) { strcpy(name, "Made Accelerator"); return DONE; }

int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) { *minor = 7 - *(int *)handle; return DONE; }

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    *current = *pending = *(int *)handle == 2;
    return *(int *)handle == 0 ? NOT_SUPPORTED : DONE;
}

int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *memory) { memory[0] = 80ull << 30; return DONE; }

const char *nvmlErrorString(int code) { return code == 18 ? "Driver/library version mismatch" : "an error"; }

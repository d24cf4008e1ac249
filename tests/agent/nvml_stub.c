/* A driver library for tests: what libnvidia-ml.so.1 exports, as far as drivefs-agent asks for it.
 *
 * NVML_STUB chooses the box, as words with commas between:
 *   n=8        eight cards (1 unless said)       lost=1     card 1 has fallen off the bus
 *   na         no power, no load, no processes   mig=2      MIG is on, with two slices a card
 *   mismatch   library and module differ         unloaded   no kernel module
 *   unknown    nothing but "unknown error"       unified    an integrated part without memory of its own
 *   util=37    percent busy
 * Structures and numbers are those of the NVML API reference; only what the tests need is here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, UNLOADED = 9, LOST = 15, MISMATCH = 18, UNKNOWN = 999 };

typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { int index, slice; } Card; /* slice: -1 for the whole card */
typedef struct { u64 total, free, used; } Memory;
typedef struct { u32 version; u64 total, reserved, free, used; } Memory2;
typedef struct { u32 gpu, memory; } Rates;
typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
typedef struct { u32 version, sensor; int temperature; } Temperature;
typedef struct { u32 pid; u64 used; u32 gpu_instance, compute_instance; } Process;

static Card cards[16][8];
static const u64 GIB = 1ULL << 30;

static int has(const char *word) {
    const char *all = getenv("NVML_STUB"), *at = all;
    size_t length = strlen(word);
    while (at && (at = strstr(at, word)) != NULL) {
        char after = at[length];
        if ((at == all || at[-1] == ',') && (after == 0 || after == ',' || after == '=')) return 1;
        at += length;
    }
    return 0;
}

static int number(const char *word, int otherwise) {
    const char *all = getenv("NVML_STUB");
    const char *at = all && has(word) ? strstr(all, word) : NULL;
    return at && at[strlen(word)] == '=' ? atoi(at + strlen(word) + 1) : otherwise;
}

#define WELL(card) do { if (has("lost") && (card)->index == number("lost", 0)) return LOST; } while (0)
#define UNLESS(word) do { if (has(word)) return NOT_SUPPORTED; } while (0)
#define PLAIN(name, value) int name(Card *card, u32 *out) { WELL(card); *out = (value); return OK; }

int nvmlInitWithFlags(u32 flags) {
    (void)flags;
    return has("mismatch") ? MISMATCH : has("unloaded") ? UNLOADED : has("unknown") ? UNKNOWN : OK;
}
int nvmlShutdown(void) { return OK; }
int nvmlSystemGetDriverVersion(char *out, u32 length) { snprintf(out, length, "580.95.05"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 13000; return OK; }
int nvmlDeviceGetCount_v2(u32 *out) { *out = number("n", 1); return OK; }
int nvmlDeviceGetHandleByIndex_v2(u32 index, Card **out) {
    if (index >= (u32)number("n", 1) || index >= 16) return INVALID;
    Card *card = &cards[index][7];
    card->index = index, card->slice = -1;
    WELL(card);
    *out = card;
    return OK;
}
int nvmlDeviceGetName(Card *card, char *out, u32 length) {
    WELL(card);
    snprintf(out, length, card->slice >= 0 ? "NVIDIA H200 MIG 1g.18gb" : has("unified") ? "NVIDIA GB10" : "NVIDIA H200");
    return OK;
}
int nvmlDeviceGetUUID(Card *card, char *out, u32 length) {
    WELL(card);
    if (card->slice >= 0) snprintf(out, length, "MIG-%08d-%d", card->index, card->slice);
    else snprintf(out, length, "GPU-%08d", card->index);
    return OK;
}
int nvmlDeviceGetPciInfo_v3(Card *card, Pci *out) {
    WELL(card);
    memset(out, 0, sizeof *out);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", card->index + 1);
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(Card *card, int *major, int *minor) { WELL(card); *major = 9, *minor = 0; return OK; }
PLAIN(nvmlDeviceGetArchitecture, 9)
int nvmlDeviceGetMemoryInfo_v2(Card *card, Memory2 *out) {
    WELL(card);
    UNLESS("unified");
    if (card->slice >= 0) return NOT_SUPPORTED;
    out->total = 140 * GIB, out->reserved = GIB, out->used = 3 * GIB, out->free = 136 * GIB;
    return OK;
}
int nvmlDeviceGetMemoryInfo(Card *card, Memory *out) {
    WELL(card);
    UNLESS("unified");
    if (card->slice >= 0) out->total = 18 * GIB, out->used = 2 * GIB, out->free = 16 * GIB;
    else out->total = 140 * GIB, out->used = 4 * GIB, out->free = 136 * GIB;
    return OK;
}
int nvmlDeviceGetUtilizationRates(Card *card, Rates *out) {
    WELL(card);
    UNLESS("na");
    UNLESS("mig");
    out->gpu = number("util", 37), out->memory = 12;
    return OK;
}
int nvmlDeviceGetTemperatureV(Card *card, Temperature *out) { WELL(card); out->temperature = 41; return OK; }
int nvmlDeviceGetPowerUsage(Card *card, u32 *out) { WELL(card); UNLESS("na"); *out = 123400; return OK; }
PLAIN(nvmlDeviceGetEnforcedPowerLimit, 700000)
int nvmlDeviceGetTotalEnergyConsumption(Card *card, u64 *out) { WELL(card); *out = 5000500; return OK; }
int nvmlDeviceGetNumFans(Card *card, u32 *out) { WELL(card); (void)out; return NOT_SUPPORTED; }
int nvmlDeviceGetFanSpeed(Card *card, u32 *out) { WELL(card); (void)out; return NOT_SUPPORTED; }
int nvmlDeviceGetClockInfo(Card *card, u32 kind, u32 *out) { WELL(card); *out = kind == 1 ? 1755 : 3201; return OK; }
int nvmlDeviceGetMaxClockInfo(Card *card, u32 kind, u32 *out) { WELL(card); (void)kind; *out = 1980; return OK; }
PLAIN(nvmlDeviceGetPerformanceState, 0)
int nvmlDeviceGetCurrentClocksEventReasons(Card *card, u64 *out) { WELL(card); *out = 4; return OK; }
int nvmlDeviceGetEccMode(Card *card, u32 *now, u32 *later) { WELL(card); *now = *later = 1; return OK; }
int nvmlDeviceGetTotalEccErrors(Card *card, u32 kind, u32 counter, u64 *out) {
    WELL(card);
    (void)kind, (void)counter;
    *out = 0;
    return OK;
}
int nvmlDeviceGetRemappedRows(Card *card, u32 *a, u32 *b, u32 *c, u32 *d) { WELL(card); *a = *b = *c = *d = 0; return OK; }
PLAIN(nvmlDeviceGetCurrPcieLinkGeneration, 5)
PLAIN(nvmlDeviceGetCurrPcieLinkWidth, 16)
int nvmlDeviceGetMigMode(Card *card, u32 *now, u32 *later) { WELL(card); *now = *later = has("mig"); return OK; }
PLAIN(nvmlDeviceGetMaxMigDeviceCount, 7)
int nvmlDeviceGetMigDeviceHandleByIndex(Card *card, u32 place, Card **out) {
    WELL(card);
    if (place >= (u32)number("mig", 0) || place >= 7) return NOT_FOUND;
    Card *slice = &cards[card->index][place];
    slice->index = card->index, slice->slice = place;
    *out = slice;
    return OK;
}
int nvmlDeviceGetGpuInstanceId(Card *card, u32 *out) { *out = 7 + card->slice; return OK; }
int nvmlDeviceGetComputeInstanceId(Card *card, u32 *out) { (void)card; *out = 0; return OK; }
int nvmlDeviceGetComputeRunningProcesses_v3(Card *card, u32 *count, Process *into) {
    WELL(card);
    UNLESS("na");
    if (*count < 1 || !into) { *count = 1; return TOO_SMALL; }
    *count = 1;
    into->pid = 4194999, into->used = 2 * GIB, into->gpu_instance = into->compute_instance = 0xFFFFFFFF;
    return OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(Card *card, u32 *count, Process *into) {
    WELL(card);
    (void)into;
    *count = 0;
    return OK;
}

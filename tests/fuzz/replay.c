/* A plain main for fuzz targets: runs files and the files of folders, each whole, at
 * every truncation, and with every byte changed in a few ways; or, for a time, with
 * random changes. */
#include "fuzz.h"

#include <dirent.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_CHANGES 8u

static time_t deadline; /* 0: every variation once */
static unsigned long cases;

static void run(const uint8_t *data, size_t len)
{
    uint8_t *copy = fuzz_copy(data, len);
    (void)LLVMFuzzerTestOneInput(copy, len);
    free(copy);
    cases++;
}

static void run_variations(uint8_t *data, size_t len)
{
    static const uint8_t changes[] = {0x01, 0x20, 0x80, 0xff};

    run(data, len);
    for (size_t i = 0; i < len; i++) {
        run(data, i);
        for (size_t k = 0; k < sizeof changes; k++) {
            data[i] ^= changes[k];
            run(data, len);
            data[i] ^= changes[k];
        }
    }
}

/* A few changes at a time, and now and then another length. */
static void run_random(const uint8_t *data, size_t len)
{
    static uint32_t dice = 1;
    uint8_t *copy = fuzz_copy(data, len);

    for (unsigned i = 0; len != 0 && i < 1 + dice % MAX_CHANGES; i++) {
        dice = dice * 1664525 + 1013904223;
        copy[(dice >> 8) % len] = (uint8_t)(dice >> 3);
    }
    run(copy, dice >> 30 || len == 0 ? len : (dice >> 8) % len);
    free(copy);
}

static void run_file(const char *path, size_t len)
{
    uint8_t *data = malloc(len ? len : 1);
    FILE *file = fopen(path, "rb");

    CHECK(data != NULL);
    CHECK(file != NULL);
    CHECK(fread(data, 1, len, file) == len);
    fclose(file);
    if (deadline != 0) {
        for (unsigned i = 0; i < 100; i++) {
            run_random(data, len);
        }
    } else {
        run_variations(data, len);
    }
    free(data);
}

static unsigned run_path(const char *path)
{
    struct stat st;
    unsigned count = 0;

    CHECK(stat(path, &st) == 0);
    if (!S_ISDIR(st.st_mode)) {
        run_file(path, (size_t)st.st_size);
        return 1;
    }
    DIR *folder = opendir(path);
    CHECK(folder != NULL);
    for (const struct dirent *entry = readdir(folder); entry != NULL;
         entry = readdir(folder)) {
        char below[4096];
        if (entry->d_name[0] != '.') {
            snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
            count += run_path(below);
        }
    }
    closedir(folder);
    return count;
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    int first = 1;

    if (argc > 2 && strcmp(argv[1], "--seconds") == 0) {
        deadline = time(NULL) + atol(argv[2]);
        first = 3;
    }
    do {
        for (int i = first; i < argc; i++) {
            count += run_path(argv[i]);
        }
    } while (count != 0 && time(NULL) < deadline);
    if (count == 0) {
        fprintf(stderr, "usage: %s [--seconds N] FILE|FOLDER...\n", argv[0]);
        return 2;
    }
    if (deadline != 0) {
        printf("%lu cases\n", cases);
    }
    return 0;
}

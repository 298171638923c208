/* A plain main for fuzz targets: runs files and the files of folders, each whole, at
 * every truncation, and with every byte changed in a few ways. */
#include "fuzz.h"

#include <dirent.h>
#include <sys/stat.h>

static void run(const uint8_t *data, size_t len)
{
    uint8_t *copy = fuzz_copy(data, len);
    (void)LLVMFuzzerTestOneInput(copy, len);
    free(copy);
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

static void run_file(const char *path, size_t len)
{
    uint8_t *data = malloc(len ? len : 1);
    FILE *file = fopen(path, "rb");

    CHECK(data != NULL);
    CHECK(file != NULL);
    CHECK(fread(data, 1, len, file) == len);
    fclose(file);
    run_variations(data, len);
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

    for (int i = 1; i < argc; i++) {
        count += run_path(argv[i]);
    }
    if (count == 0) {
        fprintf(stderr, "usage: %s FILE|FOLDER...\n", argv[0]);
        return 2;
    }
    return 0;
}

/* What fuzz targets share. */
#ifndef FUZZ_H
#define FUZZ_H

#include "sf_file.h"
#include "sf_sum.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                               \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
            abort();                                                                   \
        }                                                                              \
    } while (0)

/* Memory of exactly LEN bytes with a copy of BYTES, so that overruns are noticed. */
static inline uint8_t *fuzz_copy(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    CHECK(copy != NULL);
    if (len != 0) {
        memcpy(copy, bytes, len);
    }
    return copy;
}

static inline uint8_t *fuzz_zeros(size_t len)
{
    uint8_t *zeros = calloc(1, len ? len : 1);
    CHECK(zeros != NULL);
    return zeros;
}

/* The input as a supply of numbers, zeros once it has ended. */
struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

static inline uint64_t fuzz_take(struct fuzz_input *input, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && input->left != 0; i++) {
        value = value << 8 | *input->at++;
        input->left--;
    }
    return value;
}

static inline uint64_t fuzz_below(struct fuzz_input *input, unsigned bytes,
                                  uint64_t limit)
{
    return fuzz_take(input, bytes) % limit;
}

/* A file of LEN zeros that exists in memory only. */
static inline struct sf_file *fuzz_file(uint64_t len, unsigned flags)
{
    struct sf_file *file = NULL;
    const int fd = memfd_create("fuzz", 0);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)len) == 0);
    CHECK(sf_file_adopt(fd, flags | SF_OPEN_WRITE, &file, NULL) == SF_OK);
    close(fd);
    return file;
}

/* The same key in every run. */
static inline const uint64_t *fuzz_key(void)
{
    static uint64_t key[SF_SUM_KEY_WORDS(SF_MAX_PAGE)];
    for (size_t i = 0; key[0] == 0 && i < SF_SUM_KEY_WORDS(SF_MAX_PAGE); i++) {
        key[i] = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    }
    return key;
}

#endif

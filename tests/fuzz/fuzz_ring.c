/* Windows made by threads come in order, whole, up to the one that fails; a file is
 * read ahead between any two places; and the consumer may leave at any time.
 *
 * Input: threads, windows, the one that fails, when to leave; then a range and content.
 */
#include "fuzz.h"
#include "sf_ring.h"

#define BUFFER 64u

struct maker {
    uint64_t failing;
    unsigned destroyed;
};

static enum sf_status make(void *context, uint64_t number, uint8_t *buffer,
                           uint8_t *scratch, size_t *start, size_t *len,
                           struct sf_err *err)
{
    const struct maker *maker = context;

    if (number == maker->failing) {
        return sf_err_set(err, SF_E_FORMAT, number, "as told");
    }
    memset(scratch, (int)number, BUFFER);
    *start = (size_t)number % 7;
    *len = 1 + (size_t)(number * 5) % (BUFFER - 7);
    memcpy(buffer + *start, scratch, *len);
    return SF_OK;
}

static void destroy(void *context)
{
    struct maker *maker = context;
    maker->destroyed++;
}

static enum sf_status next(struct sf_ring *ring, uint8_t **data, size_t *len,
                           struct sf_err *err)
{
    enum sf_status status;
    do {
        status = sf_ring_next(ring, 1000, data, len, err);
    } while (status == SF_AGAIN);
    return status;
}

static void check_made(struct fuzz_input *input)
{
    static const struct sf_ring_ops ops = {make, destroy, BUFFER, BUFFER};
    const unsigned nthreads = (unsigned)fuzz_below(input, 1, 6);
    const uint64_t nwindows = fuzz_take(input, 1);
    struct maker maker = {fuzz_take(input, 1), 0};
    const uint64_t leave = fuzz_take(input, 1);
    struct sf_ring *ring = NULL;
    struct sf_err err;
    uint8_t *data = NULL;
    size_t len = 0;

    CHECK(sf_ring_start(&ops, &maker, nwindows, nthreads, &ring, &err) == SF_OK);
    for (uint64_t number = 0; number < leave; number++) {
        const enum sf_status status = next(ring, &data, &len, &err);
        if (number < nwindows && number == maker.failing) {
            CHECK(status == SF_E_FORMAT && err.offset == number);
            break;
        }
        CHECK(status == SF_OK);
        if (number >= nwindows) {
            CHECK(len == 0);
            break;
        }
        CHECK(len == 1 + (number * 5) % (BUFFER - 7));
        for (size_t i = 0; i < len; i++) {
            CHECK(data[i] == (uint8_t)number);
        }
    }
    sf_ring_finish(ring);
    CHECK(maker.destroyed == 1);
}

static void check_read(struct fuzz_input *input)
{
    const size_t window = (size_t)1 << (4 + fuzz_below(input, 1, 8));
    const uint64_t first = fuzz_take(input, 2);
    const uint64_t end = fuzz_take(input, 2);
    const size_t total = input->left;
    const uint8_t *content = input->at;
    struct sf_file *file = fuzz_file(0, 0);
    struct sf_ring *ring = NULL;
    struct sf_err err;
    uint8_t *data = NULL;
    uint64_t at = first;
    enum sf_status status;

    CHECK(sf_file_write(file, content, total, 0, NULL) == SF_OK);
    status = sf_read_start(file, first, end, window, 2, &ring, &err);
    CHECK((status == SF_OK) == (first <= end));
    sf_file_free(file); /* the ring holds it */
    if (status != SF_OK) {
        return;
    }
    for (size_t len = 1; len != 0; at += len) {
        status = next(ring, &data, &len, &err);
        if (status != SF_OK) {
            CHECK(status == SF_E_TRUNCATED && end > total);
            break;
        }
        CHECK(len == 0 || (at + len <= total && memcmp(data, content + at, len) == 0));
    }
    CHECK(status != SF_OK || at == end);
    sf_ring_finish(ring);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};

    check_made(&input);
    check_read(&input);
    return 0;
}

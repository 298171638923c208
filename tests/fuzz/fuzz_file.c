/* Reads, writes, holes, extents, holders and closings of a file in any order, with and
 * without io_uring, against an array and a count.
 *
 * Input: flags, then steps. */
#include "fuzz.h"
#include "sf_map.h"

#define MOST 16384u
#define MAX_STEPS 200u
#define MAX_COUNT 5u

struct range {
    uint64_t offset;
    size_t len;
};

static struct range take_range(struct fuzz_input *input)
{
    const uint64_t offset = fuzz_below(input, 2, MOST + 1);
    return (struct range){offset, (size_t)fuzz_below(input, 2, MOST - offset + 1)};
}

static void read_pieces(struct sf_file *file, struct fuzz_input *input,
                        const uint8_t *model)
{
    struct sf_piece pieces[MAX_COUNT];
    const unsigned count = 1 + (unsigned)fuzz_below(input, 1, MAX_COUNT);

    for (unsigned i = 0; i < count; i++) {
        const struct range range = take_range(input);
        pieces[i] = (struct sf_piece){fuzz_zeros(range.len), range.len, range.offset};
    }
    CHECK(sf_file_read_pieces(file, pieces, count, NULL) == SF_OK);
    for (unsigned i = 0; i < count; i++) {
        CHECK(memcmp(pieces[i].buf, model + pieces[i].offset, pieces[i].len) == 0);
        free(pieces[i].buf);
    }
}

/* What lies between extents is zeros. */
static void check_extents(struct sf_file *file, const uint8_t *model)
{
    uint64_t at = 0;
    uint64_t start;
    uint64_t len;

    do {
        CHECK(sf_file_next_extent(file, at, &start, &len, NULL) == SF_OK);
        const uint64_t gap_end = len != 0 ? sf_min(start, MOST) : MOST;
        CHECK(start >= at);
        for (; at < gap_end; at++) {
            CHECK(model[at] == 0);
        }
        at = start + len;
    } while (len != 0);
}

static void check_map(struct sf_file *file, const uint8_t *model)
{
    struct sf_map *map = NULL;
    CHECK(sf_map_new(file, &map, NULL) == SF_OK);
    CHECK(memcmp(sf_map_data(map), model, MOST) == 0);
    sf_map_free(map);
}

/* One step on a file that is open for us. */
static void step(struct sf_file *file, struct fuzz_input *input, uint8_t *model)
{
    const uint64_t choice = fuzz_take(input, 1);
    const struct range range = take_range(input);
    uint8_t *buf = fuzz_zeros(range.len + 1);
    size_t got = 0;

    switch (choice % 7) {
    case 0:
        memset(buf, (int)choice, range.len);
        memset(model + range.offset, (int)choice, range.len);
        CHECK(sf_file_write(file, buf, range.len, range.offset, NULL) == SF_OK);
        break;
    case 1:
        CHECK(sf_file_read(file, buf, range.len, range.offset, NULL) == SF_OK);
        CHECK(memcmp(buf, model + range.offset, range.len) == 0);
        break;
    case 2:
        memset(model + range.offset, 0, range.len);
        CHECK(range.len == 0 ||
              sf_file_punch(file, range.offset, range.len, NULL) == SF_OK);
        break;
    case 3:
        read_pieces(file, input, model);
        break;
    case 4:
        check_extents(file, model);
        break;
    case 5:
        CHECK(sf_file_read_some(file, buf, range.len + 1, range.offset, &got, NULL) ==
              SF_OK);
        CHECK(got == sf_min(range.len + 1, MOST - range.offset));
        CHECK(sf_file_read(file, buf, 2, MOST - 1, NULL) == SF_E_TRUNCATED ||
              range.len == 0);
        break;
    default:
        check_map(file, model);
        CHECK(sf_file_sync(file, NULL) == SF_OK);
    }
    free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t model[MOST];
    struct fuzz_input input = {data, size};
    const unsigned flags = (unsigned)fuzz_take(&input, 1);
    struct sf_file *file = fuzz_file(MOST, flags & (SF_OPEN_DIRECT | SF_OPEN_URING));
    const unsigned most = (unsigned)fuzz_take(&input, 1);
    unsigned holders = 0;
    bool closed = false;
    uint8_t byte;

    memset(model, 0, MOST);
    for (unsigned i = 0; input.left != 0 && i < MAX_STEPS; i++) {
        if (!closed) {
            step(file, &input, model);
        } else {
            CHECK(sf_file_read(file, &byte, 1, 0, NULL) == SF_E_CLOSED);
            if (holders != 0) {
                read_pieces(file, &input, model);
            }
        }
        const uint64_t choice = fuzz_take(&input, 1);
        if (choice < 60) {
            const enum sf_status status = sf_file_acquire(file, NULL);
            CHECK(status == (closed ? SF_E_CLOSED : SF_OK));
            holders += status == SF_OK;
        } else if (choice < 120 && holders != 0) {
            sf_file_release(file);
            holders--;
        } else if (i > most) {
            sf_file_close(file);
            closed = true;
        }
    }
    if (flags & 0x80) { /* the holders outlive the owner */
        sf_file_free(file);
        for (; holders != 0; holders--) {
            struct fuzz_input none = {data, 0};
            read_pieces(file, &none, model);
            sf_file_release(file);
        }
        return 0;
    }
    for (; holders != 0; holders--) {
        sf_file_release(file);
    }
    sf_file_free(file);
    return 0;
}

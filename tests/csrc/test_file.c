/* sf_file: whole transfers whatever the kernel does, direct or not. */
#include "check.h"
#include "sf_buffer.h"
#include "sf_latency.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define LENGTH (300u * 1024)

static const unsigned modes[] = {0, SF_OPEN_DIRECT, SF_OPEN_URING,
                                 SF_OPEN_DIRECT | SF_OPEN_URING};

/* A file with PATTERN, then a hole as long, then PATTERN again. */
static struct sf_file *patterned(unsigned flags, uint8_t **pattern)
{
    struct dice dice = {7};
    struct sf_err err;
    struct sf_file *file = scratch_file(3 * LENGTH, flags);

    *pattern = grab(3 * LENGTH);
    fill_random(&dice, *pattern, LENGTH);
    memcpy(*pattern + 2 * LENGTH, *pattern, LENGTH);
    CHECK_OK(sf_file_write(file, *pattern, LENGTH, 0, &err), &err);
    CHECK_OK(sf_file_write(file, *pattern, LENGTH, 2 * LENGTH, &err), &err);
    return file;
}

static void test_reads_at_any_place(unsigned flags)
{
    struct dice dice = {8};
    struct sf_err err;
    uint8_t *pattern;
    struct sf_file *file = patterned(flags, &pattern);
    const size_t room = 3 * LENGTH + 8192;
    const uint32_t align = sf_file_direct_align(file);
    uint8_t *buf = sf_buffer_alloc(room);

    CHECK_EQ(sf_file_length(file), 3 * LENGTH);
    for (unsigned i = 0; i < 400; i++) {
        const uint64_t unit = i % 3 ? 1 : 4096;
        const uint64_t offset = sf_align_down(below(&dice, 3 * LENGTH), unit);
        const size_t len =
            (size_t)sf_align_down(below(&dice, LENGTH), i % 5 ? 1 : 4096);
        const size_t skew = i % 2 ? 0 : (size_t)below(&dice, 4096);
        const size_t there = (size_t)sf_min(len, 3 * LENGTH - offset);
        size_t got = 0;
        if (i % 4 == 0) {
            fault_stutter();
        }
        CHECK_OK(sf_file_read_some(file, buf + skew, len, offset, &got, &err), &err);
        CHECK_EQ(got, there);
        CHECK(memcmp(buf + skew, pattern + offset, got) == 0);
        const enum sf_status status = sf_file_read(file, buf + skew, len, offset, &err);
        CHECK_EQ(status, there == len ? SF_OK : SF_E_TRUNCATED);
        if (there != len) {
            CHECK_EQ(err.offset, 3 * LENGTH);
        }
        fault_off();
    }
    CHECK_EQ(sf_file_direct_align(file), align); /* never used where it must not be */
    sf_buffer_free(buf, room);
    sf_file_free(file);
    free(pattern);
}

static void test_writes_at_any_place(unsigned flags)
{
    struct dice dice = {9};
    struct sf_err err;
    struct sf_file *file = scratch_file(2 * LENGTH, flags);
    uint8_t *model = grab(2 * LENGTH);
    uint8_t *buf = sf_buffer_alloc(LENGTH + 4096);
    const uint32_t align = sf_file_direct_align(file);

    for (unsigned i = 0; i < 200; i++) {
        const uint64_t offset = sf_align_down(below(&dice, LENGTH), i % 3 ? 1 : 4096);
        const size_t len =
            (size_t)sf_align_down(below(&dice, LENGTH), i % 5 ? 1 : 4096);
        uint8_t *from = buf + (i % 2 ? 0 : below(&dice, 4096));
        memset(from, (int)i, len);
        memcpy(model + offset, from, len);
        if (i % 4 == 0) {
            fault_stutter();
        }
        CHECK_OK(sf_file_write(file, from, len, offset, &err), &err);
        fault_off();
    }
    CHECK_EQ(sf_file_direct_align(file), align);
    CHECK_OK(sf_file_sync(file, &err), &err);
    uint8_t *now = slurp(file, 0, 2 * LENGTH);
    CHECK(memcmp(now, model, 2 * LENGTH) == 0);
    free(now);
    free(model);
    sf_buffer_free(buf, LENGTH + 4096);
    sf_file_free(file);
}

/* Many places at once, small and large, aligned or not, written and read back. */
static void test_pieces(unsigned flags)
{
    enum { ROOM = 16384 };
    struct dice dice = {12};
    struct sf_err err;
    struct sf_file *file = scratch_file(SF_MAX_PIECES * (uint64_t)ROOM, flags);
    const size_t length = SF_MAX_PIECES * (size_t)ROOM;
    uint8_t *model = grab(length);
    uint8_t *buf = sf_buffer_alloc(length);
    struct sf_piece pieces[SF_MAX_PIECES];

    for (unsigned round = 0; round < 20; round++) {
        const unsigned count = 1 + (unsigned)below(&dice, SF_MAX_PIECES);
        fill_random(&dice, buf, length);
        for (unsigned i = 0; i < count; i++) {
            const size_t skew = round % 2 ? (size_t)below(&dice, 512) : 0;
            const size_t len = round % 3 ? 4096 : (size_t)below(&dice, ROOM - 512);
            const uint64_t offset = (uint64_t)i * ROOM + skew;
            pieces[i] = (struct sf_piece){buf + offset, len, offset};
            memcpy(model + offset, buf + offset, len);
        }
        if (round % 4 == 0) {
            fault_stutter();
        }
        CHECK_OK(sf_file_write_pieces(file, pieces, count, &err), &err);
        fill_random(&dice, buf, length);
        CHECK_OK(sf_file_read_pieces(file, pieces, count, &err), &err);
        fault_off();
        for (unsigned i = 0; i < count; i++) {
            CHECK(memcmp(pieces[i].buf, model + pieces[i].offset, pieces[i].len) == 0);
        }
        uint8_t *now = slurp(file, 0, length);
        CHECK(memcmp(now, model, length) == 0);
        free(now);
    }
    sf_buffer_free(buf, length);
    sf_file_free(file);
    free(model);
}

/* A piece that is cut into chunks, more of them than go at once, with ragged ends. */
static void test_large_pieces(unsigned flags)
{
    const size_t length = (80u << 20) + 12345;
    struct dice dice = {13};
    struct sf_err err;
    struct sf_file *file = scratch_file(0, flags);
    uint8_t *from = sf_buffer_alloc(length);
    uint8_t *to = sf_buffer_alloc(length);
    size_t got = 0;

    for (size_t at = 0; at < length; at += 4099) {
        from[at] = (uint8_t)roll(&dice);
    }
    CHECK_OK(sf_file_write(file, from, length, 4096, &err), &err);
    CHECK_OK(sf_file_read_some(file, to, length, 4096, &got, &err), &err);
    CHECK_EQ(got, length);
    CHECK(memcmp(from, to, length) == 0);
    CHECK_OK(sf_file_read_some(file, to, length, 8192, &got, &err), &err);
    CHECK_EQ(got, length - 4096);
    CHECK(memcmp(from + 4096, to, got) == 0);
    sf_buffer_free(from, length);
    sf_buffer_free(to, length);
    sf_file_free(file);
}

/* The first piece that the file's end cuts is the one that is told of. */
static void test_pieces_behind_the_end(unsigned flags)
{
    struct sf_err err;
    struct sf_file *file = scratch_file(3 * 4096, flags);
    uint8_t *buf = sf_buffer_alloc(6 * 4096);
    struct sf_piece pieces[3];

    for (unsigned i = 0; i < 3; i++) {
        pieces[i] = (struct sf_piece){buf + i * 8192, 8192, i * UINT64_C(8192)};
    }
    CHECK_EQ(sf_file_read_pieces(file, pieces, 3, &err), SF_E_TRUNCATED);
    CHECK_EQ(err.offset, 3 * 4096);
    sf_buffer_free(buf, 6 * 4096);
    sf_file_free(file);
}

/* Where the file system refuses direct transfers after all, buffered ones go on. */
static void test_direct_gives_up(void)
{
    struct sf_err err;
    uint8_t *pattern;

    for (unsigned n = 1; n < 3; n++) {
        struct sf_file *file = patterned(SF_OPEN_DIRECT, &pattern);
        uint8_t *buf = sf_buffer_alloc(LENGTH);
        if (sf_file_direct_align(file) == 0) {
            fprintf(stderr, "note: no direct I/O on this file system\n");
        } else {
            fault_at(n == 1 ? FAULT_READ : FAULT_WRITE, 1, EINVAL);
            if (n == 1) {
                CHECK_OK(sf_file_read(file, buf, LENGTH, 0, &err), &err);
                CHECK(memcmp(buf, pattern, LENGTH) == 0);
            } else {
                CHECK_OK(sf_file_write(file, buf, LENGTH, 0, &err), &err);
            }
            CHECK(fault_hit());
            CHECK_EQ(sf_file_direct_align(file), 0);
            fault_off();
        }
        sf_buffer_free(buf, LENGTH);
        sf_file_free(file);
        free(pattern);
    }
}

/* The place of the failure, not of the request. */
static void test_transfers_fail_at_their_offset(void)
{
    struct sf_err err;
    uint8_t *pattern;
    struct sf_file *file = patterned(0, &pattern);
    uint8_t *buf = grab(LENGTH);
    size_t got;

    for (unsigned n = 1; n < 6;
         n += 2) { /* 4 KiB at a time, every other one interrupted */
        fault_stutter();
        fault_at(FAULT_READ, n, EIO);
        CHECK_EQ(sf_file_read_some(file, buf, LENGTH, 10, &got, &err), SF_E_OS);
        CHECK_EQ(err.errnum, EIO);
        CHECK(strcmp(err.message, "read") == 0);
        CHECK_EQ(err.offset, 10 + n / 2 * 4096);
        fault_stutter();
        fault_at(FAULT_WRITE, n, ENOSPC);
        CHECK_EQ(sf_file_write(file, buf, LENGTH, 10, &err), SF_E_OS);
        CHECK_EQ(err.errnum, ENOSPC);
        CHECK(strcmp(err.message, "write") == 0);
        CHECK_EQ(err.offset, 10 + n / 2 * 4096);
        fault_off();
    }
    CHECK_EQ(sf_file_read(file, buf, 1, UINT64_C(1) << 63, &err), SF_E_OS);
    CHECK_EQ(err.errnum, EINVAL);
    free(buf);
    free(pattern);
    sf_file_free(file);
}

/* A limit that the kernel itself keeps. */
static void test_a_file_may_grow_no_further(unsigned flags)
{
    struct rlimit old;
    struct sf_err err;
    struct sf_file *file = scratch_file(0, flags);
    uint8_t *buf = sf_buffer_alloc(LENGTH);

    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    const struct rlimit limit = {LENGTH / 2, old.rlim_max};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    const enum sf_status status = sf_file_write(file, buf, LENGTH, 0, &err);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK_EQ(status, SF_E_OS);
    CHECK_EQ(err.errnum, EFBIG);
    CHECK_EQ(err.offset, LENGTH / 2);
    sf_buffer_free(buf, LENGTH);
    sf_file_free(file);
}

static void test_read_only_descriptors(void)
{
    char path[64];
    struct sf_err err;
    const int fd = scratch_fd(LENGTH);

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const int reading = open(path, O_RDONLY);
    CHECK(reading >= 0);
    struct sf_file *file = adopt(reading, SF_OPEN_DIRECT);
    CHECK_EQ(sf_file_write(file, "x", 1, 5, &err), SF_E_OS);
    CHECK_EQ(err.errnum, EBADF);
    CHECK_EQ(err.offset, 5);
    CHECK_EQ(sf_file_punch(file, 0, 4096, &err), SF_E_OS);
    sf_file_free(file);
    close(reading);
    close(fd);
}

static void test_what_cannot_be_adopted(void)
{
    const struct leftovers before = look_around();
    struct sf_file *file = NULL;
    struct sf_err err;
    int pipes[2];

    CHECK_EQ(sf_file_adopt(-1, 0, &file, &err), SF_E_OS);
    CHECK_EQ(err.errnum, EBADF);
    const int closed = scratch_fd(0);
    close(closed);
    CHECK_EQ(sf_file_adopt(closed, SF_OPEN_DIRECT, &file, &err), SF_E_OS);
    CHECK_EQ(err.errnum, EBADF);
    const int full = open("/dev/full", O_RDWR);
    CHECK(full >= 0);
    CHECK_EQ(sf_file_adopt(full, SF_OPEN_WRITE, &file, &err), SF_E_RANGE);
    close(full);
    CHECK(pipe(pipes) == 0);
    CHECK_EQ(sf_file_adopt(pipes[0], 0, &file, &err), SF_E_RANGE);
    close(pipes[0]);
    close(pipes[1]);
    CHECK(file == NULL);
    sf_file_free(NULL);
    check_clean(&before);
}

/* The caller's descriptor is the caller's. */
static void test_the_descriptor_is_copied(void)
{
    const struct leftovers before = look_around();
    const int fd = scratch_fd(10);
    struct sf_file *file = adopt(fd, SF_OPEN_WRITE | SF_OPEN_DIRECT);
    struct stat st;

    sf_file_free(file);
    CHECK(fstat(fd, &st) == 0);
    close(fd);
    check_clean(&before);
}

static void test_punch(unsigned flags, int refusal)
{
    uint8_t *pattern;
    struct sf_err err;
    struct sf_file *file = patterned(flags, &pattern);
    const uint64_t offset = 1000;
    const uint64_t len = 200000;

    if (refusal != 0) {
        fault_at(FAULT_PUNCH, 1, refusal);
    }
    CHECK_OK(sf_file_punch(file, offset, len, &err), &err);
    CHECK(refusal == 0 || fault_hit());
    fault_off();
    memset(pattern + offset, 0, len);
    uint8_t *now = slurp(file, 0, 3 * LENGTH);
    CHECK(memcmp(now, pattern, 3 * LENGTH) == 0);
    CHECK_OK(sf_file_punch(file, offset, 0, &err), &err);
    free(now);
    free(pattern);
    sf_file_free(file);
}

static void test_punch_fails(void)
{
    struct sf_err err;
    struct sf_file *file = scratch_file(LENGTH, 0);

    fault_at(FAULT_PUNCH, 1, EIO);
    CHECK_EQ(sf_file_punch(file, 4096, 4096, &err), SF_E_OS);
    CHECK_EQ(err.errnum, EIO);
    CHECK_EQ(err.offset, 4096);
    fault_off();
    sf_file_free(file);
}

static void test_extents(void)
{
    uint8_t *pattern;
    struct sf_err err;
    struct sf_file *file = patterned(0, &pattern);
    uint64_t at = 0;
    uint64_t covered = 0;

    CHECK_OK(sf_file_punch(file, LENGTH, LENGTH, &err), &err);
    for (;;) {
        uint64_t start = 0;
        uint64_t len = 0;
        CHECK_OK(sf_file_next_extent(file, at, &start, &len, &err), &err);
        if (len == 0) {
            break;
        }
        CHECK(start >= at);
        CHECK(start + len <= sf_align_up(3 * LENGTH, 4096));
        at = start + len;
        covered += len;
    }
    CHECK(covered >= 2 * LENGTH);
    CHECK(covered < 3 * LENGTH);
    free(pattern);
    sf_file_free(file);
}

static void test_extents_where_holes_are_unknown(void)
{
    struct sf_err err;
    uint64_t start = 0;
    uint64_t len = 0;
    struct sf_file *file = scratch_file(LENGTH, 0);

    fault_at(FAULT_SEEK, 1, EINVAL);
    CHECK_OK(sf_file_next_extent(file, 100, &start, &len, &err), &err);
    CHECK_EQ(start, 100);
    CHECK_EQ(len, LENGTH - 100);
    fault_at(FAULT_SEEK, 1, EINVAL);
    CHECK_OK(sf_file_next_extent(file, LENGTH + 1, &start, &len, &err), &err);
    CHECK_EQ(len, 0);
    CHECK_OK(sf_file_write(file, "x", 1, 0, &err), &err);
    fault_at(FAULT_SEEK, 2, EIO);
    CHECK_EQ(sf_file_next_extent(file, 0, &start, &len, &err), SF_E_OS);
    fault_at(FAULT_SEEK, 1, EIO);
    CHECK_EQ(sf_file_next_extent(file, 0, &start, &len, &err), SF_E_OS);
    fault_off();
    sf_file_free(file);
}

static uint64_t requests_of(struct sf_file *file)
{
    uint64_t counts[SF_LATENCY_BUCKETS];
    uint64_t total = 0;

    sf_file_take_latencies(file, counts);
    for (unsigned i = 0; i < SF_LATENCY_BUCKETS; i++) {
        total += counts[i];
    }
    return total;
}

/* Each request is counted once, whatever way it goes. */
static void test_requests_are_measured(unsigned flags)
{
    const size_t length = 4u << 20;
    struct sf_file *file = scratch_file(length, flags);
    uint8_t *buf = aligned_alloc(65536, length);
    struct sf_err err;

    memset(buf, 7, length);
    CHECK_OK(sf_file_measure(file, 4096, &err), &err);
    CHECK_OK(sf_file_measure(file, 4096, &err), &err);
    CHECK_OK(sf_file_write(file, buf, 4096, 0, &err), &err);
    CHECK_EQ(requests_of(file), 1);
    CHECK_EQ(requests_of(file), 0);
    CHECK_OK(sf_file_write(file, buf, length, 0, &err), &err);
    CHECK_OK(sf_file_read(file, buf, 4096, 8192, &err), &err);
    const uint64_t total = requests_of(file);
    const bool at_once = sf_file_has_uring(file) && sf_file_direct_align(file) != 0;
    CHECK_EQ(total, at_once ? 5 : 2);
    free(buf);
    sf_file_free(file);
}

static enum sf_status measure(void *context, struct sf_err *err)
{
    struct sf_file *file = NULL;
    enum sf_status status = sf_file_adopt(*(int *)context, 0, &file, err);

    if (status == SF_OK) {
        status = sf_file_measure(file, 0, err);
        sf_file_free(file);
    }
    return status;
}

static void test_sync(void)
{
    struct sf_err err;
    struct sf_file *file = scratch_file(0, 0);

    fault_at(FAULT_SYNC, 1, EINTR);
    CHECK_OK(sf_file_sync(file, &err), &err);
    CHECK(fault_hit());
    fault_at(FAULT_SYNC, 1, EIO);
    CHECK_EQ(sf_file_sync(file, &err), SF_E_OS);
    CHECK_EQ(err.errnum, EIO);
    fault_off();
    sf_file_free(file);
}

static enum sf_status open_and_close(void *context, struct sf_err *err)
{
    struct sf_file *file = NULL;
    const enum sf_status status =
        sf_file_adopt(*(int *)context, SF_OPEN_DIRECT, &file, err);

    CHECK((status == SF_OK) == (file != NULL));
    sf_file_free(file);
    return status;
}

/* Rings that cannot be had are no failure, and leave nothing behind. */
static enum sf_status open_with_rings(void *context, struct sf_err *err)
{
    struct sf_file *file = NULL;
    const enum sf_status status =
        sf_file_adopt(*(int *)context, SF_OPEN_URING, &file, err);
    if (status == SF_OK) {
        sf_file_free(file);
    }
    return status;
}

int main(void)
{
    int fd = scratch_fd(0);

    for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++) {
        test_pieces(modes[i]);
        test_large_pieces(modes[i]);
        test_pieces_behind_the_end(modes[i]);
        test_reads_at_any_place(modes[i]);
        test_writes_at_any_place(modes[i]);
        test_a_file_may_grow_no_further(modes[i]);
        test_requests_are_measured(modes[i]);
        test_punch(modes[i], 0);
        test_punch(modes[i], EINTR);
        test_punch(modes[i], EOPNOTSUPP);
    }
    test_direct_gives_up();
    test_transfers_fail_at_their_offset();
    test_read_only_descriptors();
    test_what_cannot_be_adopted();
    test_the_descriptor_is_copied();
    test_punch_fails();
    test_extents();
    test_extents_where_holes_are_unknown();
    test_sync();
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, open_and_close, &fd);
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, measure, &fd);
    starve_each(open_with_rings, &fd);
    close(fd);
    return 0;
}

/* What every driver needs: checks that say where, random numbers, scratch files, and a
 * look at what is left behind. */
#ifndef CHECK_H
#define CHECK_H

#include "fault.h"
#include "sf_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                               \
    do {                                                                               \
        if (!(condition)) {                                                            \
            check_failed(__FILE__, __LINE__, #condition);                              \
        }                                                                              \
    } while (0)

#define CHECK_EQ(left, right)                                                          \
    check_equal(__FILE__, __LINE__, #left " == " #right, (uint64_t)(left),             \
                (uint64_t)(right))

/* OK, or ERR is shown. */
#define CHECK_OK(call, err)                                                            \
    do {                                                                               \
        if ((call) != SF_OK) {                                                         \
            fprintf(stderr, "errno %d: %s\n", (err)->errnum, (err)->message);          \
            check_failed(__FILE__, __LINE__, #call);                                   \
        }                                                                              \
    } while (0)

static inline _Noreturn void check_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    abort();
}

static inline void check_equal(const char *file, int line, const char *what,
                               uint64_t left, uint64_t right)
{
    if (left != right) {
        fprintf(stderr, "%s:%d: %s: %" PRIu64 " and %" PRIu64 "\n", file, line, what,
                left, right);
        abort();
    }
}

/* --- random numbers: the same in every run --- */

struct dice {
    uint64_t state;
};

static inline uint64_t roll(struct dice *dice)
{
    dice->state ^= dice->state << 13;
    dice->state ^= dice->state >> 7;
    dice->state ^= dice->state << 17;
    return dice->state * UINT64_C(0x2545f4914f6cdd1d) >> 11;
}

/* 0 to LIMIT - 1. */
static inline uint64_t below(struct dice *dice, uint64_t limit)
{
    return roll(dice) % limit;
}

static inline void fill_random(struct dice *dice, uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)roll(dice);
    }
}

static inline void *grab(size_t len)
{
    void *p = malloc(len ? len : 1);
    CHECK(p != NULL);
    memset(p, 0, len ? len : 1);
    return p;
}

/* --- files --- */

/* A nameless file of LEN zeros; the descriptor is the caller's. */
static inline int scratch_fd(uint64_t len)
{
    const char *folder = getenv("TMPDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/savefmt-XXXXXX", folder ? folder : "/tmp");
    const int fd = mkstemp(path);
    CHECK(fd >= 0);
    CHECK(unlink(path) == 0);
    CHECK(ftruncate(fd, (off_t)len) == 0);
    return fd;
}

static inline struct sf_file *adopt(int fd, unsigned flags)
{
    struct sf_file *file = NULL;
    struct sf_err err;
    CHECK_OK(sf_file_adopt(fd, flags, &file, &err), &err);
    return file;
}

/* A nameless file of LEN zeros, open for everything. */
static inline struct sf_file *scratch_file(uint64_t len, unsigned flags)
{
    const int fd = scratch_fd(len);
    struct sf_file *file = adopt(fd, flags | SF_OPEN_WRITE);
    close(fd);
    return file;
}

static inline uint8_t *slurp(struct sf_file *file, uint64_t offset, size_t len)
{
    struct sf_err err;
    uint8_t *data = grab(len);
    CHECK_OK(sf_file_read(file, data, len, offset, &err), &err);
    return data;
}

/* --- what is left behind: threads, descriptors, mappings --- */

struct leftovers {
    unsigned threads;
    unsigned descriptors;
    long mappings;
};

static inline unsigned count_entries(const char *path)
{
    unsigned count = 0;
    DIR *folder = opendir(path);
    CHECK(folder != NULL);
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

static inline void *do_nothing(void *argument)
{
    return argument;
}

static inline struct leftovers look_around(void)
{
    static bool warm;
    if (!warm) { /* a sanitizer starts a thread of its own beside the first of ours */
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, do_nothing, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        warm = true;
    }
    return (struct leftovers){count_entries("/proc/self/task"),
                              count_entries("/proc/self/fd"), fault_mappings()};
}

static inline void nap(long milliseconds)
{
    const struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* Nothing more than BEFORE; a joined thread may take a moment to leave /proc. */
static inline void check_clean(const struct leftovers *before)
{
    struct leftovers now = look_around();
    for (unsigned i = 0; i < 1000 && now.threads > before->threads; i++) {
        nap(1);
        now = look_around();
    }
    CHECK_EQ(now.threads, before->threads);
    CHECK_EQ(now.descriptors, before->descriptors);
    CHECK_EQ(now.mappings, before->mappings);
}

/* --- one failure at a time --- */

typedef enum sf_status (*run_fn)(void *context, struct sf_err *err);

/* Call RUN(CONTEXT, ERR) with the first call of KIND failing, then the second, and so
 * on until it gets by without that call; each failure must come out as STATUS with
 * ERRNUM, or, if it MAY_SURVIVE, not at all, and nothing may be left behind. */
static inline void fail_each_call(enum fault_kind kind, int errnum,
                                  enum sf_status expected, run_fn run, void *context,
                                  bool may_survive)
{
    const struct leftovers before = look_around();

    for (unsigned n = 1;; n++) {
        struct sf_err err = {0};
        CHECK(n < 10000);
        fault_at(kind, n, errnum);
        const enum sf_status status = run(context, &err);
        const bool hit = fault_hit();
        fault_off();
        check_clean(&before);
        if (!hit) {
            CHECK_EQ(status, SF_OK);
            return;
        }
        if (may_survive && status == SF_OK) {
            continue;
        }
        CHECK_EQ(status, expected);
        CHECK_EQ(err.status, expected);
        if (expected == SF_E_OS) {
            CHECK_EQ(err.errnum, errnum);
        }
        CHECK(err.message[0] != 0);
    }
}

static inline void fail_each(enum fault_kind kind, int errnum, enum sf_status expected,
                             run_fn run, void *context)
{
    fail_each_call(kind, errnum, expected, run, context, false);
}

/* A thread of a ring that found no memory is no loss if the others do all the work; nor
 * is a long span. */
static inline void starve_each(run_fn run, void *context)
{
    fail_each_call(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, run, context, true);
}

#endif

/* One file with two descriptors. */
#include "sf_file.h"

#include "sf_descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PUNCH_CHUNK 65536u

/* The state of a file: two flags, and above them how many hold it. */
#define CLOSED 1u
#define DROPPED 2u
#define HOLDER 4u

struct sf_file {
    atomic_uint state;
    struct sf_descriptors two;
    uint64_t length;
    struct sf_extents *view; /* NULL: the file as it is */
    struct sf_file **others; /* the files with the rest of the view; held */
    unsigned nothers;
    bool has_uring;
};

enum sf_status sf_file_adopt(int fd, unsigned flags, struct sf_file **out,
                             struct sf_err *err)
{
    enum sf_status status;
    struct stat st;

    struct sf_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "file handle");
    }
    atomic_init(&file->state, 0);
    sf_descriptors_init(&file->two);
    status = sf_descriptors_open(&file->two, fd, err);
    if (status != SF_OK) {
        goto fail;
    }
    if (fstat(file->two.fd, &st) < 0) {
        status = sf_err_os(err, errno, SF_NO_OFFSET, "fstat");
        goto fail;
    }
    file->length = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode)) {
        if (ioctl(file->two.fd, BLKGETSIZE64, &file->length) < 0) {
            status =
                sf_err_os(err, errno, SF_NO_OFFSET, "reading the size of the device");
            goto fail;
        }
    } else if (!S_ISREG(st.st_mode)) {
        status =
            sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "this file has no fixed length");
        goto fail;
    }
    if (flags & SF_OPEN_DIRECT) {
        sf_descriptors_add_direct(&file->two, (flags & SF_OPEN_WRITE) != 0);
    }
    if (flags & SF_OPEN_URING) {
        file->has_uring = sf_descriptors_add_rings(&file->two);
    }
    *out = file;
    return SF_OK;

fail:
    sf_file_free(file);
    return status;
}

/* Hold every other file that a view shows. */
static enum sf_status hold_others(struct sf_file *file, struct sf_file *const *others,
                                  unsigned count, struct sf_err *err)
{
    enum sf_status status = SF_OK;

    file->others = calloc(count ? count : 1, sizeof *others);
    if (file->others == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "view");
    }
    while (file->nothers < count && status == SF_OK) {
        status = sf_file_acquire(others[file->nothers], err);
        if (status == SF_OK) {
            file->others[file->nothers] = others[file->nothers];
            file->nothers++;
        }
    }
    return status;
}

static void let_others_go(struct sf_file *file)
{
    while (file->nothers != 0) {
        sf_file_release(file->others[--file->nothers]);
    }
    free(file->others);
    file->others = NULL;
}

enum sf_status sf_file_arrange(struct sf_file *file, struct sf_file *const *others,
                               unsigned nothers, const struct sf_extent *extents,
                               size_t count, uint64_t length, struct sf_err *err)
{
    uint64_t lengths[SF_MAX_OTHERS + 1] = {file->length};

    if (file->view != NULL || nothers > SF_MAX_OTHERS) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET,
                          "the file has a view already, or it lies in too many others");
    }
    enum sf_status status = hold_others(file, others, nothers, err);
    for (unsigned i = 0; i < file->nothers; i++) {
        lengths[i + 1] = sf_file_length(file->others[i]);
    }
    if (status == SF_OK) {
        status = sf_extents_new(extents, count, length, lengths, nothers + 1,
                                &file->view, err);
    }
    if (status != SF_OK) {
        let_others_go(file);
        return status;
    }
    file->length = length;
    return SF_OK;
}

enum sf_status sf_file_measure(struct sf_file *file, size_t small_write,
                               struct sf_err *err)
{
    if (file->two.latency == NULL) {
        file->two.latency = calloc(1, sizeof *file->two.latency);
    }
    if (file->two.latency == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "latencies");
    }
    file->two.small_write = small_write;
    return SF_OK;
}

void sf_file_take_latencies(struct sf_file *file, uint64_t *counts)
{
    sf_latency_take(file->two.latency, counts);
}

/* With the last owner of the handle goes what a reader might still look at. */
static void free_handle(struct sf_file *file)
{
    sf_extents_free(file->view);
    free(file->two.latency);
    free(file);
}

enum sf_status sf_file_acquire(struct sf_file *file, struct sf_err *err)
{
    unsigned state = atomic_load_explicit(&file->state, memory_order_relaxed);

    do {
        if (state & CLOSED) {
            return sf_err_set(err, SF_E_CLOSED, SF_NO_OFFSET, "the file was closed");
        }
    } while (!atomic_compare_exchange_weak(&file->state, &state, state + HOLDER));
    return SF_OK;
}

enum sf_status sf_file_acquire_both(struct sf_file *source, struct sf_file *target,
                                    struct sf_err *err)
{
    enum sf_status status = sf_file_acquire(source, err);

    if (status == SF_OK && target != NULL) {
        status = sf_file_acquire(target, err);
        if (status != SF_OK) {
            sf_file_release(source);
        }
    }
    return status;
}

void sf_file_release(struct sf_file *file)
{
    if (file == NULL) {
        return;
    }
    unsigned state = atomic_load(&file->state);
    do {
        /* The last holder of a closed file: nobody comes any more, and the handle stays
         * as long as we are counted. */
        if ((state & CLOSED) && state / HOLDER == 1) {
            sf_descriptors_close(&file->two);
            let_others_go(file);
        }
    } while (!atomic_compare_exchange_weak(&file->state, &state, state - HOLDER));
    if (state - HOLDER == (CLOSED | DROPPED)) {
        free_handle(file);
    }
}

/* Set FLAGS and leave the rest to the last holder, which we may be. */
static void give_up(struct sf_file *file, unsigned flags)
{
    unsigned state = atomic_load(&file->state);

    while (
        !atomic_compare_exchange_weak(&file->state, &state, (state | flags) + HOLDER)) {
    }
    sf_file_release(file);
}

void sf_file_close(struct sf_file *file)
{
    give_up(file, CLOSED);
}

void sf_file_free(struct sf_file *file)
{
    if (file != NULL) {
        give_up(file, CLOSED | DROPPED);
    }
}

int sf_file_descriptor(const struct sf_file *file)
{
    return file->two.fd;
}

uint64_t sf_file_length(const struct sf_file *file)
{
    return file->length;
}

bool sf_file_start(const struct sf_file *file, uint64_t *start)
{
    *start = 0;
    return file->view == NULL || sf_extents_whole(file->view, start);
}

uint32_t sf_file_direct_align(const struct sf_file *file)
{
    return atomic_load(&file->two.align);
}

bool sf_file_has_uring(const struct sf_file *file)
{
    return file->has_uring;
}

/* Read parts of a view from their files; a file that became shorter is TRUNCATED. */
static enum sf_status read_parts(struct sf_file *file, const struct sf_part *parts,
                                 unsigned count, struct sf_err *err)
{
    struct sf_piece pieces[SF_MAX_PIECES];
    size_t done[SF_MAX_PIECES];
    enum sf_status status = SF_OK;

    for (unsigned first = 0, last = 0; first < count && status == SF_OK; first = last) {
        const unsigned source = parts[first].source;
        for (last = first; last < count && parts[last].source == source; last++) {
            pieces[last - first] = parts[last].piece;
        }
        struct sf_file *from = source == 0 ? file : file->others[source - 1];
        status =
            sf_descriptors_move(&from->two, false, pieces, last - first, done, err);
        for (unsigned i = 0; i < last - first && status == SF_OK; i++) {
            if (done[i] < pieces[i].len) {
                status = sf_err_set(err, SF_E_TRUNCATED, pieces[i].offset + done[i],
                                    "the file became shorter while it was read");
            }
        }
    }
    return status;
}

static enum sf_status read_view(struct sf_file *file, const struct sf_piece *pieces,
                                unsigned count, size_t *done, struct sf_err *err)
{
    struct sf_part parts[SF_MAX_PIECES];
    unsigned waiting = 0;
    enum sf_status status = SF_OK;

    for (unsigned i = 0; i < count && status == SF_OK; i++) {
        struct sf_piece left = pieces[i];
        const uint64_t there = sf_min(left.offset, file->length);
        left.len = (size_t)sf_min(left.len, file->length - there);
        done[i] = left.len;
        while (left.len != 0 && status == SF_OK) {
            waiting += sf_extents_cut(file->view, &left, parts + waiting,
                                      SF_MAX_PIECES - waiting);
            if (waiting == SF_MAX_PIECES) {
                status = read_parts(file, parts, waiting, err);
                waiting = 0;
            }
        }
    }
    if (status == SF_OK && waiting != 0) {
        status = read_parts(file, parts, waiting, err);
    }
    return status;
}

/* Read pieces; DONE[i] < LEN for those that the end cuts. */
static enum sf_status read_pieces(struct sf_file *file, const struct sf_piece *pieces,
                                  unsigned count, size_t *done, struct sf_err *err)
{
    return file->view != NULL
               ? read_view(file, pieces, count, done, err)
               : sf_descriptors_move(&file->two, false, pieces, count, done, err);
}

enum sf_status sf_file_read_some(struct sf_file *file, void *buf, size_t len,
                                 uint64_t offset, size_t *got, struct sf_err *err)
{
    const struct sf_piece piece = {buf, len, offset};
    size_t done = 0;
    const enum sf_status status = read_pieces(file, &piece, 1, &done, err);

    if (status == SF_OK) {
        *got = done;
    }
    return status;
}

enum sf_status sf_file_read(struct sf_file *file, void *buf, size_t len,
                            uint64_t offset, struct sf_err *err)
{
    const struct sf_piece piece = {buf, len, offset};
    enum sf_status status = sf_file_acquire(file, err);

    if (status == SF_OK) {
        status = sf_file_read_pieces(file, &piece, 1, err);
        sf_file_release(file);
    }
    return status;
}

enum sf_status sf_file_read_pieces(struct sf_file *file, const struct sf_piece *pieces,
                                   unsigned count, struct sf_err *err)
{
    size_t done[SF_MAX_PIECES];
    enum sf_status status = read_pieces(file, pieces, count, done, err);

    for (unsigned i = 0; i < count && status == SF_OK; i++) {
        if (done[i] < pieces[i].len) {
            status = sf_err_set(err, SF_E_TRUNCATED, pieces[i].offset + done[i],
                                "the file ends %zu bytes too early",
                                pieces[i].len - done[i]);
        }
    }
    return status;
}

enum sf_status sf_file_write(struct sf_file *file, const void *buf, size_t len,
                             uint64_t offset, struct sf_err *err)
{
    /* Nothing is written to a piece that is written from. */
    const struct sf_piece piece = {(uint8_t *)(uintptr_t)buf, len, offset};
    enum sf_status status = sf_file_acquire(file, err);

    if (status == SF_OK) {
        status = sf_file_write_pieces(file, &piece, 1, err);
        sf_file_release(file);
    }
    return status;
}

enum sf_status sf_file_write_pieces(struct sf_file *file, const struct sf_piece *pieces,
                                    unsigned count, struct sf_err *err)
{
    size_t done[SF_MAX_PIECES];

    if (file->view != NULL) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "a view cannot be written");
    }
    return sf_descriptors_move(&file->two, true, pieces, count, done, err);
}

enum sf_status sf_file_punch(struct sf_file *file, uint64_t offset, uint64_t len,
                             struct sf_err *err)
{
    static const uint8_t zeros[PUNCH_CHUNK];
    int failed;

    do {
        failed = fallocate(file->two.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           (off_t)offset, (off_t)len);
    } while (failed && errno == EINTR);
    if (!failed) {
        return SF_OK;
    }
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) {
        return sf_err_os(err, errno, offset, "fallocate");
    }
    for (uint64_t done = 0; done < len; done += PUNCH_CHUNK) {
        const struct sf_piece piece = {(uint8_t *)(uintptr_t)zeros,
                                       (size_t)sf_min(PUNCH_CHUNK, len - done),
                                       offset + done};
        const enum sf_status status = sf_file_write_pieces(file, &piece, 1, err);
        if (status != SF_OK) {
            return status;
        }
    }
    return SF_OK;
}

static enum sf_status find_extent(struct sf_file *file, uint64_t offset,
                                  uint64_t *start, uint64_t *len, struct sf_err *err)
{
    const off_t data = lseek(file->two.fd, (off_t)offset, SEEK_DATA);

    if (data < 0) {
        if (errno == ENXIO) {
            *start = offset;
            *len = 0;
            return SF_OK;
        }
        if (errno != EINVAL && errno != EOPNOTSUPP) {
            return sf_err_os(err, errno, offset, "lseek");
        }
        /* A file system without holes: all is data. */
        *start = offset;
        *len = file->length > offset ? file->length - offset : 0;
        return SF_OK;
    }
    const off_t hole = lseek(file->two.fd, data, SEEK_HOLE);
    if (hole < 0) {
        return sf_err_os(err, errno, (uint64_t)data, "lseek");
    }
    *start = (uint64_t)data;
    *len = (uint64_t)(hole - data);
    return SF_OK;
}

enum sf_status sf_file_next_extent(struct sf_file *file, uint64_t offset,
                                   uint64_t *start, uint64_t *len, struct sf_err *err)
{
    enum sf_status status = sf_file_acquire(file, err);

    if (status == SF_OK) {
        if (file->view != NULL) {
            sf_extents_next(file->view, offset, start, len);
        } else {
            status = find_extent(file, offset, start, len, err);
        }
        sf_file_release(file);
    }
    return status;
}

enum sf_status sf_file_sync(struct sf_file *file, struct sf_err *err)
{
    enum sf_status status = sf_file_acquire(file, err);
    int failed;

    if (status != SF_OK) {
        return status;
    }
    do {
        failed = fsync(file->two.fd);
    } while (failed && errno == EINTR);
    if (failed) {
        status = sf_err_os(err, errno, SF_NO_OFFSET, "fsync");
    }
    sf_file_release(file);
    return status;
}

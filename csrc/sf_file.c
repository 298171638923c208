/* One file with two descriptors. */
#include "sf_file.h"

#include "sf_align.h"
#include "sf_latency.h"
#include "sf_uring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PUNCH_CHUNK 65536u
#define SMALL_WRITE 65536u
/* What one of many requests at once moves at most. */
#define CHUNK (1u << 20)

/* The state of a file: two flags, and above them how many hold it. */
#define CLOSED 1u
#define DROPPED 2u
#define HOLDER 4u

struct sf_file {
    atomic_uint state;
    int fd;
    int direct_fd;
    atomic_uint align; /* 0 once direct I/O was refused */
    uint64_t length;
    struct sf_extents *view;     /* NULL: the file as it is */
    struct sf_uring_pool *rings; /* NULL: one request after the other */
    struct sf_latency *latency;  /* NULL: requests are not timed */
    size_t small_write;          /* what is shorter goes through the page cache */
    bool has_uring;
};

static void open_direct_twin(struct sf_file *file, int mode)
{
    char path[40];
    const uint32_t align = sf_align_direct(file->fd);

    if (align == 0 || align > (1u << 20)) {
        return;
    }
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", file->fd);
    file->direct_fd = open(path, mode | O_DIRECT | O_CLOEXEC);
    if (file->direct_fd >= 0) {
        atomic_store(&file->align, align);
    }
}

enum sf_status sf_file_adopt(int fd, unsigned flags, struct sf_file **out,
                             struct sf_err *err)
{
    enum sf_status status;
    struct stat st;

    struct sf_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "file handle");
    }
    file->direct_fd = -1;
    file->small_write = SMALL_WRITE;
    atomic_init(&file->state, 0);
    atomic_init(&file->align, 0);
    file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (file->fd < 0) {
        status = sf_err_os(err, errno, SF_NO_OFFSET, "dup");
        goto fail;
    }
    if (fstat(file->fd, &st) < 0) {
        status = sf_err_os(err, errno, SF_NO_OFFSET, "fstat");
        goto fail;
    }
    file->length = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode)) {
        if (ioctl(file->fd, BLKGETSIZE64, &file->length) < 0) {
            status = sf_err_os(err, errno, SF_NO_OFFSET, "tell the size of the device");
            goto fail;
        }
    } else if (!S_ISREG(st.st_mode)) {
        status = sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "no file of a fixed length");
        goto fail;
    }
    if (flags & SF_OPEN_DIRECT) {
        open_direct_twin(file, (flags & SF_OPEN_WRITE) ? O_RDWR : O_RDONLY);
    }
    if (flags & SF_OPEN_URING) {
        file->has_uring = sf_uring_pool_new(&file->rings, NULL) == SF_OK;
    }
    *out = file;
    return SF_OK;

fail:
    sf_file_free(file);
    return status;
}

enum sf_status sf_file_arrange(struct sf_file *file, const struct sf_extent *extents,
                               size_t count, uint64_t length, struct sf_err *err)
{
    if (file->view != NULL) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "the file has a view already");
    }
    const enum sf_status status =
        sf_extents_new(extents, count, length, file->length, &file->view, err);
    if (status == SF_OK) {
        file->length = length;
    }
    return status;
}

enum sf_status sf_file_measure(struct sf_file *file, size_t small_write,
                               struct sf_err *err)
{
    if (file->latency == NULL) {
        file->latency = calloc(1, sizeof *file->latency);
    }
    file->small_write = small_write;
    return file->latency != NULL
               ? SF_OK
               : sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "latencies");
}

void sf_file_take_latencies(struct sf_file *file, uint64_t *counts)
{
    sf_latency_take(file->latency, counts);
}

/* With the last owner of the handle goes what a reader might still look at. */
static void free_handle(struct sf_file *file)
{
    sf_extents_free(file->view);
    free(file->latency);
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

/* A number is given up before it is closed: after a failure, too, the system may have
 * given it to somebody else. */
static void close_descriptor(int *fd)
{
    const int number = *fd;

    *fd = -1;
    if (number >= 0) {
        (void)close(number);
    }
}

static void close_descriptors(struct sf_file *file)
{
    sf_uring_pool_free(file->rings);
    file->rings = NULL;
    close_descriptor(&file->direct_fd);
    close_descriptor(&file->fd);
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
            close_descriptors(file);
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
    return file->fd;
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
    return atomic_load(&file->align);
}

bool sf_file_has_uring(const struct sf_file *file)
{
    return file->has_uring;
}

/* How many of the bytes of PIECE from DONE on may go through the direct descriptor. */
static size_t direct_part(const struct sf_file *file, bool write,
                          const struct sf_piece *piece, size_t done)
{
    const uint32_t align = atomic_load_explicit(&file->align, memory_order_relaxed);
    /* The page cache gathers small writes and sends them out many at a time; a direct
     * one waits for the disk each. */
    if (align == 0 || (write && piece->len < file->small_write) ||
        (piece->offset + done) % align != 0 ||
        (uintptr_t)(piece->buf + done) % align != 0) {
        return 0;
    }
    return (size_t)sf_align_down(piece->len - done, align);
}

/* The file system changed its mind (EINVAL): use the buffered descriptor from now on.
 */
static bool gave_up_direct(struct sf_file *file, size_t direct)
{
    if (direct != 0 && errno == EINVAL) {
        atomic_store(&file->align, 0);
        return true;
    }
    return false;
}

/* Move what is left of PIECE after *DONE, in order; a read may meet the file's end. */
static enum sf_status move_rest(struct sf_file *file, bool write,
                                const struct sf_piece *piece, size_t *done,
                                struct sf_err *err)
{
    while (*done < piece->len) {
        uint8_t *at = piece->buf + *done;
        const size_t direct = direct_part(file, write, piece, *done);
        const int fd = direct ? file->direct_fd : file->fd;
        const size_t len = direct ? direct : piece->len - *done;
        const off_t offset = (off_t)(piece->offset + *done);
        const uint64_t began = file->latency != NULL ? sf_latency_clock() : 0;
        const ssize_t n =
            write ? pwrite(fd, at, len, offset) : pread(fd, at, len, offset);
        if (file->latency != NULL && n > 0) {
            sf_latency_add(file->latency, sf_latency_clock() - began);
        }
        if (n < 0) {
            if (errno == EINTR || gave_up_direct(file, direct)) {
                continue;
            }
            return sf_err_os(err, errno, piece->offset + *done,
                             write ? "write" : "read");
        }
        if (n == 0) { /* the end of what is read */
            return write ? sf_err_os(err, EIO, piece->offset + *done, "write") : SF_OK;
        }
        *done += (size_t)n;
    }
    return SF_OK;
}

/* Chunks of several pieces, on their way at once. */
struct batch {
    struct sf_chunk chunks[SF_URING_DEPTH];
    unsigned owners[SF_URING_DEPTH]; /* the piece that each belongs to */
    unsigned count;
};

static void send(struct sf_file *file, bool write, const struct sf_piece *pieces,
                 size_t *done, struct batch *batch)
{
    sf_uring_pool_move(file->rings, write, batch->chunks, batch->count);
    for (unsigned i = 0; i < batch->count; i++) {
        const struct sf_chunk *chunk = &batch->chunks[i];
        const unsigned owner = batch->owners[i];
        if (file->latency != NULL && chunk->moved != 0) {
            sf_latency_add(file->latency, chunk->took);
        }
        /* Behind a gap, what was moved must be moved again. */
        if (chunk->offset == pieces[owner].offset + done[owner]) {
            done[owner] += chunk->moved;
        }
    }
    batch->count = 0;
}

/* Move as much as goes at once; DONE[i] says how much of each piece did. */
static void move_at_once(struct sf_file *file, bool write,
                         const struct sf_piece *pieces, unsigned count, size_t *done)
{
    struct batch batch;

    batch.count = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t len = 0;
        done[i] = 0;
        for (size_t at = 0; at < pieces[i].len; at += len) {
            const size_t direct = direct_part(file, write, &pieces[i], at);
            len = (size_t)sf_min(direct ? direct : pieces[i].len - at, CHUNK);
            /* The page cache takes writes without waiting, and reads ahead of one large
             * read by itself. */
            if (direct == 0 && (write || count == 1)) {
                continue;
            }
            batch.owners[batch.count] = i;
            batch.chunks[batch.count++] =
                (struct sf_chunk){pieces[i].buf + at,
                                  pieces[i].offset + at,
                                  (uint32_t)len,
                                  direct ? file->direct_fd : file->fd,
                                  0,
                                  0};
            if (batch.count == SF_URING_DEPTH) {
                send(file, write, pieces, done, &batch);
            }
        }
    }
    if (batch.count != 0) {
        send(file, write, pieces, done, &batch);
    }
}

/* Move pieces; DONE[i] < LEN for those that the file's end cuts. */
static enum sf_status move_pieces(struct sf_file *file, bool write,
                                  const struct sf_piece *pieces, unsigned count,
                                  size_t *done, struct sf_err *err)
{
    enum sf_status status = SF_OK;

    memset(done, 0, count * sizeof *done);
    /* A single small request gains nothing from company. */
    if (file->rings != NULL && (count > 1 || pieces[0].len > CHUNK)) {
        move_at_once(file, write, pieces, count, done);
    }
    for (unsigned i = 0; i < count && status == SF_OK; i++) {
        status = move_rest(file, write, &pieces[i], &done[i], err);
    }
    return status;
}

/* Read parts of a view from where they lie; a file that became shorter is TRUNCATED. */
static enum sf_status read_parts(struct sf_file *file, const struct sf_piece *parts,
                                 unsigned count, struct sf_err *err)
{
    size_t done[SF_MAX_PIECES];
    const enum sf_status status = move_pieces(file, false, parts, count, done, err);

    for (unsigned i = 0; i < count && status == SF_OK; i++) {
        if (done[i] < parts[i].len) {
            return sf_err_set(err, SF_E_TRUNCATED, parts[i].offset + done[i],
                              "the file became shorter while it was read");
        }
    }
    return status;
}

static enum sf_status read_view(struct sf_file *file, const struct sf_piece *pieces,
                                unsigned count, size_t *done, struct sf_err *err)
{
    struct sf_piece parts[SF_MAX_PIECES];
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
    return file->view != NULL ? read_view(file, pieces, count, done, err)
                              : move_pieces(file, false, pieces, count, done, err);
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
    return move_pieces(file, true, pieces, count, done, err);
}

enum sf_status sf_file_punch(struct sf_file *file, uint64_t offset, uint64_t len,
                             struct sf_err *err)
{
    static const uint8_t zeros[PUNCH_CHUNK];
    int failed;

    do {
        failed = fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
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
    const off_t data = lseek(file->fd, (off_t)offset, SEEK_DATA);

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
    const off_t hole = lseek(file->fd, data, SEEK_HOLE);
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
        failed = fsync(file->fd);
    } while (failed && errno == EINTR);
    if (failed) {
        status = sf_err_os(err, errno, SF_NO_OFFSET, "fsync");
    }
    sf_file_release(file);
    return status;
}

/* The two descriptors of one file. */
#include "sf_descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FALLBACK_ALIGN 4096u
#define SMALL_WRITE 65536u
/* What one of many requests at once moves at most. */
#define CHUNK (1u << 20)

/* The kernel's struct statx as far as the DIO alignments (Linux 6.1); the C library's
 * headers of the oldest supported system do not have them yet. */
struct statx_dio {
    uint32_t mask;
    uint8_t skipped[148];
    uint32_t mem_align;
    uint32_t offset_align;
    uint8_t rest[96];
};
#define STATX_DIOALIGN_BIT 0x2000u

/* What direct I/O on FD needs, 0 when the file system has none. */
static uint32_t ask_alignment(int fd)
{
#ifdef SYS_statx
    struct statx_dio st = {0};
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN_BIT, &st) == 0 &&
        (st.mask & STATX_DIOALIGN_BIT)) {
        if (st.offset_align == 0) {
            return 0;
        }
        const uint32_t align =
            st.mem_align > st.offset_align ? st.mem_align : st.offset_align;
        /* A length that is a whole number of pages never splits a block. */
        return align > FALLBACK_ALIGN ? align : FALLBACK_ALIGN;
    }
#endif
    return FALLBACK_ALIGN;
}

void sf_descriptors_add_direct(struct sf_descriptors *two, bool write)
{
    char path[40];
    const uint32_t align = ask_alignment(two->fd);

    if (align == 0 || align > (1u << 20)) {
        return;
    }
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", two->fd);
    two->direct_fd = open(path, (write ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
    if (two->direct_fd >= 0) {
        atomic_store(&two->align, align);
    }
}

void sf_descriptors_init(struct sf_descriptors *two)
{
    two->fd = -1;
    two->direct_fd = -1;
    atomic_init(&two->align, 0);
    two->rings = NULL;
    two->latency = NULL;
    two->small_write = SMALL_WRITE;
}

enum sf_status sf_descriptors_open(struct sf_descriptors *two, int fd,
                                   struct sf_err *err)
{
    two->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return two->fd < 0 ? sf_err_os(err, errno, SF_NO_OFFSET, "dup") : SF_OK;
}

bool sf_descriptors_add_rings(struct sf_descriptors *two)
{
    return sf_uring_pool_new(&two->rings, NULL) == SF_OK;
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

void sf_descriptors_close(struct sf_descriptors *two)
{
    sf_uring_pool_free(two->rings);
    two->rings = NULL;
    close_descriptor(&two->direct_fd);
    close_descriptor(&two->fd);
}

/* How many of the bytes of PIECE from DONE on may go through the direct descriptor. */
static size_t direct_part(const struct sf_descriptors *two, bool write,
                          const struct sf_piece *piece, size_t done)
{
    const uint32_t align = atomic_load_explicit(&two->align, memory_order_relaxed);
    /* The page cache gathers small writes and sends them out many at a time; a direct
     * one waits for the disk each. */
    if (align == 0 || (write && piece->len < two->small_write) ||
        (piece->offset + done) % align != 0 ||
        (uintptr_t)(piece->buf + done) % align != 0) {
        return 0;
    }
    return (size_t)sf_align_down(piece->len - done, align);
}

/* The file system changed its mind (EINVAL): use the buffered descriptor from now on.
 */
static bool gave_up_direct(struct sf_descriptors *two, size_t direct)
{
    if (direct != 0 && errno == EINVAL) {
        atomic_store(&two->align, 0);
        return true;
    }
    return false;
}

/* Move the rest of PIECE after *DONE, in order; a read may meet the file's end. */
static enum sf_status move_rest(struct sf_descriptors *two, bool write,
                                const struct sf_piece *piece, size_t *done,
                                struct sf_err *err)
{
    while (*done < piece->len) {
        uint8_t *at = piece->buf + *done;
        const size_t direct = direct_part(two, write, piece, *done);
        const int fd = direct ? two->direct_fd : two->fd;
        const size_t len = direct ? direct : piece->len - *done;
        const off_t offset = (off_t)(piece->offset + *done);
        const uint64_t began = two->latency != NULL ? sf_latency_clock() : 0;
        const ssize_t n =
            write ? pwrite(fd, at, len, offset) : pread(fd, at, len, offset);
        if (two->latency != NULL && n > 0) {
            sf_latency_add(two->latency, sf_latency_clock() - began);
        }
        if (n < 0) {
            if (errno == EINTR || gave_up_direct(two, direct)) {
                continue;
            }
            return sf_err_os(err, errno, piece->offset + *done,
                             write ? "write" : "read");
        }
        if (n == 0 && !write) {
            return SF_OK;
        }
        if (n == 0) {
            return sf_err_os(err, EIO, piece->offset + *done, "write");
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

static void send(struct sf_descriptors *two, bool write, const struct sf_piece *pieces,
                 size_t *done, struct batch *batch)
{
    sf_uring_pool_move(two->rings, write, batch->chunks, batch->count);
    for (unsigned i = 0; i < batch->count; i++) {
        const struct sf_chunk *chunk = &batch->chunks[i];
        const unsigned owner = batch->owners[i];
        if (two->latency != NULL && chunk->moved != 0) {
            sf_latency_add(two->latency, chunk->took);
        }
        /* Behind a gap, what was moved must be moved again. */
        if (chunk->offset == pieces[owner].offset + done[owner]) {
            done[owner] += chunk->moved;
        }
    }
    batch->count = 0;
}

/* Move as much as goes at once; DONE[i] says how much of each piece did. */
static void move_at_once(struct sf_descriptors *two, bool write,
                         const struct sf_piece *pieces, unsigned count, size_t *done)
{
    struct batch batch;

    batch.count = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t len = 0;
        done[i] = 0;
        for (size_t at = 0; at < pieces[i].len; at += len) {
            const size_t direct = direct_part(two, write, &pieces[i], at);
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
                                  direct ? two->direct_fd : two->fd,
                                  0,
                                  0};
            if (batch.count == SF_URING_DEPTH) {
                send(two, write, pieces, done, &batch);
            }
        }
    }
    if (batch.count != 0) {
        send(two, write, pieces, done, &batch);
    }
}

enum sf_status sf_descriptors_move(struct sf_descriptors *two, bool write,
                                   const struct sf_piece *pieces, unsigned count,
                                   size_t *done, struct sf_err *err)
{
    enum sf_status status = SF_OK;

    memset(done, 0, count * sizeof *done);
    /* A single small request gains nothing from company. */
    if (two->rings != NULL && (count > 1 || pieces[0].len > CHUNK)) {
        move_at_once(two, write, pieces, count, done);
    }
    for (unsigned i = 0; i < count && status == SF_OK; i++) {
        status = move_rest(two, write, &pieces[i], &done[i], err);
    }
    return status;
}

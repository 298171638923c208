/* io_uring by its system calls: see io_uring(7), io_uring_setup(2), io_uring_enter(2).
 */
#include "sf_uring.h"

#include "sf_latency.h"

#include <stdlib.h>

#if defined(__has_include)
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif
#endif

#ifdef IORING_FEAT_NODROP

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The same number on every architecture. */
#define CALL_SETUP 425
#define CALL_ENTER 426

/* One mapping for both queues, and no completion is ever lost: Linux 5.5. */
#define FEATURES (IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP)

#define MAX_IDLE 64u

struct ring {
    int fd;
    uint8_t *queues;
    size_t queues_length;
    struct io_uring_sqe *entries;
    size_t entries_length;
    atomic_uint *tail; /* of the submission queue, ours to move */
    uint32_t *order;
    uint32_t mask;
    atomic_uint *done_head; /* of the completion queue, ours to move */
    atomic_uint *done_tail;
    struct io_uring_cqe *done;
    uint32_t done_mask;
};

struct sf_uring_pool {
    pthread_mutex_t lock;
    struct ring *idle[MAX_IDLE];
    unsigned nidle;
};

static void ring_free(struct ring *ring)
{
    if (ring == NULL) {
        return;
    }
    if (ring->entries != NULL) {
        (void)munmap(ring->entries, ring->entries_length);
    }
    if (ring->queues != NULL) {
        (void)munmap(ring->queues, ring->queues_length);
    }
    if (ring->fd >= 0) {
        (void)close(ring->fd);
    }
    free(ring);
}

static void *map_ring(int fd, size_t len, uint64_t what)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
                   (off_t)what);
    return p == MAP_FAILED ? NULL : p;
}

static bool map_queues(struct ring *ring, const struct io_uring_params *params)
{
    const size_t submitted =
        params->sq_off.array + params->sq_entries * sizeof(uint32_t);
    const size_t completed =
        params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);

    ring->queues_length = submitted > completed ? submitted : completed;
    ring->queues = map_ring(ring->fd, ring->queues_length, IORING_OFF_SQ_RING);
    ring->entries_length = params->sq_entries * sizeof *ring->entries;
    ring->entries = map_ring(ring->fd, ring->entries_length, IORING_OFF_SQES);
    if (ring->queues == NULL || ring->entries == NULL) {
        return false;
    }
    ring->tail = (atomic_uint *)(void *)(ring->queues + params->sq_off.tail);
    ring->order = (uint32_t *)(void *)(ring->queues + params->sq_off.array);
    ring->mask = params->sq_entries - 1;
    ring->done_head = (atomic_uint *)(void *)(ring->queues + params->cq_off.head);
    ring->done_tail = (atomic_uint *)(void *)(ring->queues + params->cq_off.tail);
    ring->done = (struct io_uring_cqe *)(void *)(ring->queues + params->cq_off.cqes);
    ring->done_mask = params->cq_entries - 1;
    return true;
}

/* NULL where there is no ring to be had, with errno set. */
static struct ring *ring_new(void)
{
    struct io_uring_params params = {0};
    struct ring *ring = calloc(1, sizeof *ring);

    if (ring == NULL) {
        return NULL;
    }
    ring->fd = (int)syscall(CALL_SETUP, SF_URING_DEPTH, &params);
    if (ring->fd >= 0 && (params.features & FEATURES) == FEATURES &&
        map_queues(ring, &params)) {
        return ring;
    }
    const int errnum = ring->fd < 0 ? errno : ENOSYS;
    ring_free(ring);
    errno = errnum;
    return NULL;
}

static void submit(struct ring *ring, bool write, const struct sf_chunk *chunks,
                   unsigned count)
{
    const uint32_t tail = atomic_load_explicit(ring->tail, memory_order_relaxed);

    for (unsigned i = 0; i < count; i++) {
        const uint32_t at = (tail + i) & ring->mask;
        struct io_uring_sqe *entry = &ring->entries[at];
        memset(entry, 0, sizeof *entry);
        entry->opcode = write ? IORING_OP_WRITE : IORING_OP_READ;
        entry->fd = chunks[i].fd;
        entry->addr = (uintptr_t)chunks[i].buf;
        entry->len = chunks[i].len;
        entry->off = chunks[i].offset;
        entry->user_data = i;
        ring->order[at] = at;
    }
    atomic_store_explicit(ring->tail, tail + count, memory_order_release);
}

static unsigned reap(struct ring *ring, struct sf_chunk *chunks, uint64_t began)
{
    const uint64_t took = sf_latency_clock() - began;
    uint32_t head = atomic_load_explicit(ring->done_head, memory_order_relaxed);
    const uint32_t tail = atomic_load_explicit(ring->done_tail, memory_order_acquire);
    const unsigned count = tail - head;

    for (; head != tail; head++) {
        const struct io_uring_cqe *cqe = &ring->done[head & ring->done_mask];
        chunks[cqe->user_data].moved = cqe->res > 0 ? (uint32_t)cqe->res : 0;
        chunks[cqe->user_data].took = took;
    }
    atomic_store_explicit(ring->done_head, head, memory_order_release);
    return count;
}

/* The kernel owns the buffers until the last completion: there is no way out before. */
static void ring_move(struct ring *ring, bool write, struct sf_chunk *chunks,
                      unsigned count)
{
    const struct timespec moment = {0, 1000000};
    const uint64_t began = sf_latency_clock();
    unsigned taken = 0;
    unsigned ended = 0;

    submit(ring, write, chunks, count);
    while (ended < count) {
        const long n = syscall(CALL_ENTER, ring->fd, count - taken, count - ended,
                               IORING_ENTER_GETEVENTS, NULL, 0);
        if (n > 0) {
            taken += (unsigned)n;
        } else if (n == 0 || errno != EINTR) {
            if (taken < count) {
                /* Requests that the kernel does not take, for any reason, are taken
                 * back: the caller moves them. Requests that it has must still end. */
                atomic_fetch_sub_explicit(ring->tail, count - taken,
                                          memory_order_relaxed);
                count = taken;
            } else if (n < 0) {
                /* It does not wait, either: the ends become visible in memory without
                 * that.
                 */
                (void)nanosleep(&moment, NULL);
            }
        }
        ended += reap(ring, chunks, began);
    }
}

enum sf_status sf_uring_pool_new(struct sf_uring_pool **out, struct sf_err *err)
{
    struct ring *ring = ring_new();
    if (ring == NULL) {
        return sf_err_set(err, SF_E_UNSUPPORTED, SF_NO_OFFSET,
                          "this kernel does not let savefmt use io_uring: %s",
                          strerror(errno));
    }
    struct sf_uring_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        ring_free(ring);
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "rings");
    }
    (void)pthread_mutex_init(&pool->lock, NULL);
    pool->idle[pool->nidle++] = ring;
    *out = pool;
    return SF_OK;
}

void sf_uring_pool_free(struct sf_uring_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    while (pool->nidle != 0) {
        ring_free(pool->idle[--pool->nidle]);
    }
    (void)pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static struct ring *take_ring(struct sf_uring_pool *pool)
{
    struct ring *ring = NULL;

    pthread_mutex_lock(&pool->lock);
    if (pool->nidle != 0) {
        ring = pool->idle[--pool->nidle];
    }
    pthread_mutex_unlock(&pool->lock);
    return ring != NULL ? ring : ring_new();
}

static void give_back(struct sf_uring_pool *pool, struct ring *ring)
{
    pthread_mutex_lock(&pool->lock);
    if (pool->nidle < MAX_IDLE) {
        pool->idle[pool->nidle++] = ring;
        ring = NULL;
    }
    pthread_mutex_unlock(&pool->lock);
    ring_free(ring);
}

void sf_uring_pool_move(struct sf_uring_pool *pool, bool write, struct sf_chunk *chunks,
                        unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        chunks[i].moved = 0;
    }
    struct ring *ring = take_ring(pool);
    if (ring != NULL) {
        ring_move(ring, write, chunks, count);
        give_back(pool, ring);
    }
}

#else /* built without the kernel's header */

enum sf_status sf_uring_pool_new(struct sf_uring_pool **out, struct sf_err *err)
{
    (void)out;
    return sf_err_set(err, SF_E_UNSUPPORTED, SF_NO_OFFSET, "built without io_uring");
}

void sf_uring_pool_free(struct sf_uring_pool *pool)
{
    (void)pool;
}

void sf_uring_pool_move(struct sf_uring_pool *pool, bool write, struct sf_chunk *chunks,
                        unsigned count)
{
    (void)pool;
    (void)write;
    for (unsigned i = 0; i < count; i++) {
        chunks[i].moved = 0;
    }
}

#endif

/* Windows produced in parallel and consumed in order. */
#include "sf_ring.h"

#include "sf_buffer.h"
#include "sf_file.h"
#include "sf_sync.h"

#include <stdlib.h>

/* Slots beyond one a thread: one in the consumer's hands, one ready. */
#define SPARE_SLOTS 2u

enum slot_state { SLOT_FREE, SLOT_FILLING, SLOT_READY, SLOT_FAILED };

struct slot {
    uint8_t *buffer;
    size_t start;
    size_t len;
    enum slot_state state;
    struct sf_err err;
};

struct sf_ring {
    struct sf_ring_ops ops;
    void *context;
    uint64_t nwindows;
    uint64_t next_fill; /* all below under lock */
    uint64_t next_take;
    bool holding; /* the consumer holds window next_take - 1 */
    bool stop;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned nslots;
    unsigned nthreads;
    struct slot slots[SF_MAX_THREADS + SPARE_SLOTS];
    pthread_t threads[SF_MAX_THREADS];
};

static struct slot *slot_of(struct sf_ring *ring, uint64_t number)
{
    return &ring->slots[number % ring->nslots];
}

static void *fill_windows(void *argument)
{
    struct sf_ring *ring = argument;
    uint8_t *scratch = NULL;
    bool no_memory = false;

    if (ring->ops.scratch_length != 0) {
        scratch = sf_buffer_alloc(ring->ops.scratch_length);
        no_memory = scratch == NULL;
    }
    pthread_mutex_lock(&ring->lock);
    while (!ring->stop && ring->next_fill < ring->nwindows) {
        struct slot *slot = slot_of(ring, ring->next_fill);
        if (slot->state != SLOT_FREE) {
            pthread_cond_wait(&ring->changed, &ring->lock);
            continue;
        }
        const uint64_t number = ring->next_fill++;
        slot->state = SLOT_FILLING;
        pthread_mutex_unlock(&ring->lock);

        enum sf_status status;
        if (no_memory) {
            status = sf_err_set(&slot->err, SF_E_NOMEM, SF_NO_OFFSET, "scratch buffer");
        } else {
            status = ring->ops.fill(ring->context, number, slot->buffer, scratch,
                                    &slot->start, &slot->len, &slot->err);
        }
        pthread_mutex_lock(&ring->lock);
        slot->state = status == SF_OK ? SLOT_READY : SLOT_FAILED;
        pthread_cond_broadcast(&ring->changed);
    }
    pthread_mutex_unlock(&ring->lock);
    sf_buffer_free(scratch, ring->ops.scratch_length);
    return NULL;
}

enum sf_status sf_ring_start(const struct sf_ring_ops *ops, void *context,
                             uint64_t nwindows, unsigned nthreads, struct sf_ring **out,
                             struct sf_err *err)
{
    struct sf_ring *ring = calloc(1, sizeof *ring);
    enum sf_status status;

    if (ring == NULL) {
        ops->destroy(context);
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "ring");
    }
    ring->ops = *ops;
    ring->context = context;
    ring->nwindows = nwindows;
    (void)pthread_mutex_init(&ring->lock, NULL);
    sf_cond_init(&ring->changed);
    nthreads = (unsigned)sf_max(1, sf_min(sf_min(nthreads, SF_MAX_THREADS), nwindows));
    ring->nslots = nthreads + SPARE_SLOTS;
    for (unsigned i = 0; i < ring->nslots; i++) {
        ring->slots[i].buffer = sf_buffer_alloc(ops->buffer_length);
        if (ring->slots[i].buffer == NULL) {
            status = sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "%zu bytes of buffer",
                                ops->buffer_length);
            goto fail;
        }
    }
    for (; ring->nthreads < nthreads; ring->nthreads++) {
        const int failed =
            pthread_create(&ring->threads[ring->nthreads], NULL, fill_windows, ring);
        if (failed) {
            status = sf_err_os(err, failed, SF_NO_OFFSET, "start thread");
            goto fail;
        }
    }
    *out = ring;
    return SF_OK;

fail:
    sf_ring_finish(ring);
    return status;
}

enum sf_status sf_ring_next(struct sf_ring *ring, unsigned timeout_ms, uint8_t **data,
                            size_t *len, struct sf_err *err)
{
    enum sf_status status = SF_OK;
    struct timespec deadline;

    sf_deadline(timeout_ms, &deadline);
    pthread_mutex_lock(&ring->lock);
    if (ring->holding) {
        slot_of(ring, ring->next_take - 1)->state = SLOT_FREE;
        ring->holding = false;
        pthread_cond_broadcast(&ring->changed);
    }
    *len = 0;
    if (ring->next_take < ring->nwindows) {
        struct slot *slot = slot_of(ring, ring->next_take);
        bool in_time = true;
        while (slot->state != SLOT_READY && slot->state != SLOT_FAILED && in_time) {
            in_time = sf_cond_wait(&ring->changed, &ring->lock, &deadline);
        }
        if (slot->state == SLOT_READY) {
            *data = slot->buffer + slot->start;
            *len = slot->len;
            ring->next_take++;
            ring->holding = true;
        } else if (slot->state == SLOT_FAILED) {
            *err = slot->err;
            status = slot->err.status;
        } else {
            status = SF_AGAIN;
        }
    }
    pthread_mutex_unlock(&ring->lock);
    return status;
}

void sf_ring_finish(struct sf_ring *ring)
{
    if (ring == NULL) {
        return;
    }
    pthread_mutex_lock(&ring->lock);
    ring->stop = true;
    pthread_cond_broadcast(&ring->changed);
    pthread_mutex_unlock(&ring->lock);
    for (unsigned i = 0; i < ring->nthreads; i++) {
        (void)pthread_join(ring->threads[i], NULL);
    }
    for (unsigned i = 0; i < ring->nslots; i++) {
        sf_buffer_free(ring->slots[i].buffer, ring->ops.buffer_length);
    }
    ring->ops.destroy(ring->context);
    (void)pthread_cond_destroy(&ring->changed);
    (void)pthread_mutex_destroy(&ring->lock);
    free(ring);
}

/* --- reading a file ahead --- */

struct reading {
    struct sf_file *file;
    uint64_t offset;
    uint64_t end;
    uint64_t base; /* window 0 starts here, at or before offset */
    size_t window;
};

static enum sf_status fill_from_file(void *context, uint64_t number, uint8_t *buffer,
                                     uint8_t *scratch, size_t *start, size_t *len,
                                     struct sf_err *err)
{
    const struct reading *reading = context;
    const uint64_t from = reading->base + number * reading->window;
    const uint64_t until = sf_min(from + reading->window, reading->end);
    const uint64_t first = sf_max(from, reading->offset);
    size_t got = 0;

    (void)scratch;
    /* Whole windows keep direct reads aligned; the file's end cuts the last one. */
    const enum sf_status status =
        sf_file_read_some(reading->file, buffer, reading->window, from, &got, err);
    if (status != SF_OK) {
        return status;
    }
    if (from + got < until) {
        return sf_err_set(err, SF_E_TRUNCATED, from + got,
                          "the file became shorter while it was read");
    }
    *start = (size_t)(first - from);
    *len = (size_t)(until - first);
    return SF_OK;
}

static void destroy_reading(void *context)
{
    struct reading *reading = context;

    sf_file_release(reading->file);
    free(reading);
}

enum sf_status sf_read_start(struct sf_file *file, uint64_t offset, uint64_t end,
                             size_t window, unsigned nthreads, struct sf_ring **out,
                             struct sf_err *err)
{
    const struct sf_ring_ops ops = {fill_from_file, destroy_reading, window, 0};

    if (end < offset || end > INT64_MAX || !sf_is_power_of_2(window)) {
        return sf_err_set(err, SF_E_RANGE, offset, "no such range to read");
    }
    struct reading *reading = calloc(1, sizeof *reading);
    if (reading == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "reader");
    }
    const enum sf_status status = sf_file_acquire(file, err);
    if (status != SF_OK) {
        free(reading);
        return status;
    }
    reading->file = file;
    reading->offset = offset;
    reading->end = end;
    reading->base = sf_align_down(offset, window);
    reading->window = window;
    const uint64_t nwindows =
        end > offset ? (end - reading->base + window - 1) / window : 0;
    return sf_ring_start(&ops, reading, nwindows, nthreads, out, err);
}

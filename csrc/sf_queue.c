/* Write-behind. */
#include "sf_queue.h"

#include "sf_buffer.h"
#include "sf_sync.h"

#include <stdlib.h>
#include <string.h>

struct sf_queue {
    struct sf_file *file;
    size_t window;
    size_t bits_length; /* of each bitmap of a parcel */
    atomic_uint_fast64_t written;
    struct sf_failure failure;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct sf_parcel *free; /* all below under lock */
    struct sf_parcel *head;
    struct sf_parcel *tail;
    struct sf_parcel *writing[SF_MAX_THREADS];
    bool stop;
    unsigned nthreads;
    unsigned nbuffers;
    pthread_t threads[SF_MAX_THREADS];
    struct sf_parcel *parcels;
};

struct writer {
    struct sf_queue *queue;
    unsigned number;
};

static enum sf_status write_parcel(struct sf_queue *queue, struct sf_parcel *parcel,
                                   struct sf_err *err)
{
    enum sf_status status = SF_OK;
    struct sf_run run = {0, 0};

    if (parcel->page_size == 0) {
        const struct sf_piece piece = {parcel->buffer, parcel->len, parcel->offset};
        return sf_file_write_pieces(queue->file, &piece, 1, err);
    }
    if (parcel->has_data) {
        status = sf_pages_write(queue->file, parcel->offset, parcel->page_size,
                                parcel->npages, parcel->data_bits, parcel->fill_bits,
                                parcel->buffer, err);
    }
    while (status == SF_OK && parcel->has_punch &&
           sf_page_next_run(parcel->punch_bits, parcel->npages, run.first + run.count,
                            &run)) {
        status =
            sf_file_punch(queue->file, parcel->offset + run.first * parcel->page_size,
                          run.count * parcel->page_size, err);
    }
    return status;
}

static void give_back(struct sf_queue *queue, struct sf_parcel *parcel)
{
    parcel->next = queue->free;
    queue->free = parcel;
    pthread_cond_broadcast(&queue->changed);
}

static void *write_parcels(void *argument)
{
    struct writer *writer = argument;
    struct sf_queue *queue = writer->queue;
    const unsigned number = writer->number;
    struct sf_err err;

    free(writer);
    pthread_mutex_lock(&queue->lock);
    for (;;) {
        struct sf_parcel *parcel = queue->head;
        if (parcel == NULL) {
            if (queue->stop) {
                break;
            }
            pthread_cond_wait(&queue->changed, &queue->lock);
            continue;
        }
        queue->head = parcel->next;
        if (queue->head == NULL) {
            queue->tail = NULL;
        }
        queue->writing[number] = parcel;
        const bool drop = queue->stop;
        pthread_mutex_unlock(&queue->lock);
        if (!drop && sf_failure_get(&queue->failure, NULL) == SF_OK) {
            if (write_parcel(queue, parcel, &err) != SF_OK) {
                sf_failure_set(&queue->failure, &err);
            } else {
                atomic_fetch_add(&queue->written, parcel->len);
            }
        }
        pthread_mutex_lock(&queue->lock);
        queue->writing[number] = NULL;
        give_back(queue, parcel);
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

static enum sf_status make_parcels(struct sf_queue *queue, uint32_t page_size,
                                   struct sf_err *err)
{
    for (unsigned i = 0; i < queue->nbuffers; i++) {
        struct sf_parcel *parcel = &queue->parcels[i];
        parcel->page_size = page_size;
        parcel->buffer = sf_buffer_alloc(queue->window);
        if (queue->bits_length != 0) {
            parcel->data_bits = calloc(3, queue->bits_length);
        }
        if (parcel->buffer == NULL ||
            (queue->bits_length != 0 && parcel->data_bits == NULL)) {
            return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "%zu bytes of buffer",
                              queue->window);
        }
        if (queue->bits_length != 0) {
            parcel->fill_bits = parcel->data_bits + queue->bits_length;
            parcel->punch_bits = parcel->fill_bits + queue->bits_length;
        }
        parcel->next = queue->free;
        queue->free = parcel;
    }
    return SF_OK;
}

static enum sf_status start_writer(struct sf_queue *queue, struct sf_err *err)
{
    struct writer *writer = calloc(1, sizeof *writer);
    if (writer == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "writer");
    }
    writer->queue = queue;
    writer->number = queue->nthreads;
    const int failed =
        pthread_create(&queue->threads[queue->nthreads], NULL, write_parcels, writer);
    if (failed) {
        free(writer);
        return sf_err_os(err, failed, SF_NO_OFFSET, "start thread");
    }
    queue->nthreads++;
    return SF_OK;
}

enum sf_status sf_queue_start(struct sf_file *file, size_t window, uint32_t page_size,
                              unsigned nbuffers, unsigned nthreads,
                              struct sf_queue **out, struct sf_err *err)
{
    enum sf_status status;
    struct sf_queue *queue = calloc(1, sizeof *queue);

    if (queue == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "queue");
    }
    status = sf_file_acquire(file, err);
    if (status != SF_OK) {
        free(queue);
        return status;
    }
    queue->file = file;
    queue->window = window;
    queue->bits_length = page_size ? (window / page_size + 63) / 64 * 8 : 0;
    queue->nbuffers = nbuffers;
    atomic_init(&queue->written, 0);
    sf_failure_init(&queue->failure);
    (void)pthread_mutex_init(&queue->lock, NULL);
    sf_cond_init(&queue->changed);
    queue->parcels = calloc(nbuffers, sizeof *queue->parcels);
    if (queue->parcels == NULL) {
        queue->nbuffers = 0;
        status = sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "parcels");
        goto fail;
    }
    status = make_parcels(queue, page_size, err);
    nthreads = (unsigned)sf_max(1, sf_min(nthreads, SF_MAX_THREADS));
    while (status == SF_OK && queue->nthreads < nthreads) {
        status = start_writer(queue, err);
    }
    if (status != SF_OK) {
        goto fail;
    }
    *out = queue;
    return SF_OK;

fail:
    sf_queue_finish(queue);
    return status;
}

enum sf_status sf_queue_take(struct sf_queue *queue, unsigned timeout_ms,
                             struct sf_parcel **out, struct sf_err *err)
{
    struct timespec deadline;
    enum sf_status status;

    sf_deadline(timeout_ms, &deadline);
    pthread_mutex_lock(&queue->lock);
    while (queue->free == NULL &&
           sf_cond_wait(&queue->changed, &queue->lock, &deadline)) {
    }
    status = sf_failure_get(&queue->failure, err);
    if (status == SF_OK && queue->free == NULL) {
        status = SF_AGAIN;
    }
    if (status == SF_OK) {
        struct sf_parcel *parcel = queue->free;
        queue->free = parcel->next;
        parcel->next = NULL;
        parcel->has_data = parcel->has_punch = false;
        parcel->len = 0;
        if (queue->bits_length != 0) {
            memset(parcel->data_bits, 0, 3 * queue->bits_length);
        }
        *out = parcel;
    }
    pthread_mutex_unlock(&queue->lock);
    return status;
}

void sf_queue_put(struct sf_queue *queue, struct sf_parcel *parcel)
{
    pthread_mutex_lock(&queue->lock);
    parcel->next = NULL;
    if (queue->tail != NULL) {
        queue->tail->next = parcel;
    } else {
        queue->head = parcel;
    }
    queue->tail = parcel;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

/* Under lock: is a parcel for OFFSET (or, with ANY, any parcel) still on its way? */
static bool is_pending(const struct sf_queue *queue, bool any, uint64_t offset)
{
    for (const struct sf_parcel *parcel = queue->head; parcel != NULL;
         parcel = parcel->next) {
        if (any || parcel->offset == offset) {
            return true;
        }
    }
    for (unsigned i = 0; i < queue->nthreads; i++) {
        const struct sf_parcel *parcel = queue->writing[i];
        if (parcel != NULL && (any || parcel->offset == offset)) {
            return true;
        }
    }
    return false;
}

static enum sf_status wait_pending(struct sf_queue *queue, unsigned timeout_ms,
                                   bool any, uint64_t offset, struct sf_err *err)
{
    struct timespec deadline;
    bool pending;

    sf_deadline(timeout_ms, &deadline);
    pthread_mutex_lock(&queue->lock);
    while ((pending = is_pending(queue, any, offset)) &&
           sf_cond_wait(&queue->changed, &queue->lock, &deadline)) {
    }
    pthread_mutex_unlock(&queue->lock);
    const enum sf_status status = sf_failure_get(&queue->failure, err);
    return status == SF_OK && pending ? SF_AGAIN : status;
}

enum sf_status sf_queue_settle(struct sf_queue *queue, unsigned timeout_ms,
                               uint64_t offset, struct sf_err *err)
{
    return wait_pending(queue, timeout_ms, false, offset, err);
}

enum sf_status sf_queue_drain(struct sf_queue *queue, unsigned timeout_ms,
                              struct sf_err *err)
{
    return wait_pending(queue, timeout_ms, true, 0, err);
}

uint64_t sf_queue_written(const struct sf_queue *queue)
{
    return atomic_load(&queue->written);
}

void sf_queue_finish(struct sf_queue *queue)
{
    if (queue == NULL) {
        return;
    }
    pthread_mutex_lock(&queue->lock);
    queue->stop = true;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
    for (unsigned i = 0; i < queue->nthreads; i++) {
        (void)pthread_join(queue->threads[i], NULL);
    }
    for (unsigned i = 0; i < queue->nbuffers; i++) {
        sf_buffer_free(queue->parcels[i].buffer, queue->window);
        free(queue->parcels[i].data_bits);
    }
    free(queue->parcels);
    sf_file_release(queue->file);
    (void)pthread_cond_destroy(&queue->changed);
    (void)pthread_mutex_destroy(&queue->lock);
    free(queue);
}

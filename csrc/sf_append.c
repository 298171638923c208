/* Bytes appended to a file in aligned windows. */
#include "sf_append.h"

#include "sf_queue.h"

#include <stdlib.h>
#include <string.h>

#define TAKE_TIMEOUT_MS 100u

struct sf_append {
    struct sf_queue *queue;
    struct sf_parcel *open;
    uint64_t offset; /* of the next byte */
    size_t window;
};

enum sf_status sf_append_start(struct sf_file *file, uint64_t offset, size_t window,
                               unsigned nthreads, struct sf_append **out,
                               struct sf_err *err)
{
    struct sf_append *append = calloc(1, sizeof *append);
    if (append == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "appender");
    }
    append->offset = offset;
    append->window = window;
    const enum sf_status status =
        sf_queue_start(file, window, 0, nthreads + 2, nthreads, &append->queue, err);
    if (status != SF_OK) {
        free(append);
        return status;
    }
    *out = append;
    return SF_OK;
}

static void put_open(struct sf_append *append)
{
    sf_queue_put(append->queue, append->open);
    append->open = NULL;
}

enum sf_status sf_append_feed(struct sf_append *append, const uint8_t *buf, size_t len,
                              size_t *used, struct sf_err *err)
{
    *used = 0;
    while (*used < len) {
        if (append->open == NULL) {
            const enum sf_status status =
                sf_queue_take(append->queue, TAKE_TIMEOUT_MS, &append->open, err);
            if (status != SF_OK) {
                return status == SF_AGAIN ? SF_OK : status;
            }
            append->open->offset = append->offset;
        }
        /* The first window ends early, so that all later ones are aligned. */
        const size_t room =
            append->window - (size_t)(append->open->offset % append->window);
        struct sf_parcel *parcel = append->open;
        const size_t take = (size_t)sf_min(room - parcel->len, len - *used);
        memcpy(parcel->buffer + parcel->len, buf + *used, take);
        parcel->len += take;
        append->offset += take;
        *used += take;
        if (parcel->len == room) {
            put_open(append);
        }
    }
    return SF_OK;
}

enum sf_status sf_append_flush(struct sf_append *append, unsigned timeout_ms,
                               struct sf_err *err)
{
    if (append->open != NULL) {
        put_open(append);
    }
    return sf_queue_drain(append->queue, timeout_ms, err);
}

void sf_append_finish(struct sf_append *append)
{
    if (append != NULL) {
        sf_queue_finish(append->queue);
        free(append);
    }
}

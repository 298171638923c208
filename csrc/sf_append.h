/* Bytes appended to a file in aligned windows, written behind the caller's back. */
#ifndef SF_APPEND_H
#define SF_APPEND_H

#include "sf_file.h"

struct sf_append;

enum sf_status sf_append_start(struct sf_file *file, uint64_t offset, size_t window,
                               unsigned nthreads, struct sf_append **out,
                               struct sf_err *err);
/* Take up to LEN bytes; *USED may be less (AGAIN-free: call again with the rest). */
enum sf_status sf_append_feed(struct sf_append *append, const uint8_t *buf, size_t len,
                              size_t *used, struct sf_err *err);
/* Write out the rest; AGAIN until it is done. */
enum sf_status sf_append_flush(struct sf_append *append, unsigned timeout_ms,
                               struct sf_err *err);
/* Drop unwritten data, join the threads, free. NULL is allowed. */
void sf_append_finish(struct sf_append *append);

#endif

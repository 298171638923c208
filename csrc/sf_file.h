/* One file with two descriptors: a buffered one for headers and ragged edges, and a
 * direct one for page data where the file system grants it. */
#ifndef SF_FILE_H
#define SF_FILE_H

#include "sf_extents.h"

enum sf_open_flags { SF_OPEN_WRITE = 1, SF_OPEN_DIRECT = 2, SF_OPEN_URING = 4 };

struct sf_file;

/* Take over a copy of FD, which stays the caller's.  A file opened to write must be
 * readable too.  Refused direct I/O is not a failure: sf_file_direct_align() is then 0.
 * A refused io_uring is not a failure either: requests then run one after the other. */
enum sf_status sf_file_adopt(int fd, unsigned flags, struct sf_file **out,
                             struct sf_err *err);
/* Show the bytes of a view in the place of the file's own: length, reads and extents
 * are then the view's.  Its extents lie in this file, source 0, and in OTHERS from 1
 * on, which are views of nothing else and are held until this file is closed.  Before
 * anybody else has the file, and never for one opened to write. */
#define SF_MAX_OTHERS 64u
enum sf_status sf_file_arrange(struct sf_file *file, struct sf_file *const *others,
                               unsigned nothers, const struct sf_extent *extents,
                               size_t count, uint64_t length, struct sf_err *err);
/* Time every request from now on, for sf_file_take_latencies(), and let direct writes
 * from SMALL_WRITE bytes on pass the page cache.  Before anybody else has the file. */
enum sf_status sf_file_measure(struct sf_file *file, size_t small_write,
                               struct sf_err *err);
/* Copy out how many requests of a measured file fell into each of SF_LATENCY_BUCKETS,
 * and begin again. */
void sf_file_take_latencies(struct sf_file *file, uint64_t *counts);
/* Let nobody use the file from now on.  The descriptors are closed when the last use
 * ends, which may be now.  Cannot fail, because sf_file_sync() came first; harmless
 * when repeated. */
void sf_file_close(struct sf_file *file);
/* The same, and the handle is gone for its owner: its memory is freed when the last use
 * ends.  NULL is allowed. */
void sf_file_free(struct sf_file *file);

/* Hold the file open until it is released; CLOSED after sf_file_close().  A caller that
 * runs threads over a file holds it as long as they run. Any thread may hold it. */
enum sf_status sf_file_acquire(struct sf_file *file, struct sf_err *err);
/* NULL is allowed. */
void sf_file_release(struct sf_file *file);
/* Hold both or neither; TARGET may be NULL. */
enum sf_status sf_file_acquire_both(struct sf_file *source, struct sf_file *target,
                                    struct sf_err *err);

/* Length when it was adopted, or that of its view. */
uint64_t sf_file_length(const struct sf_file *file);
/* Alignment that direct I/O needs for offset, length and memory; 0 = buffered only. */
uint32_t sf_file_direct_align(const struct sf_file *file);
/* Where the bytes begin in the adopted file; false if they are in several places, so
 * that no map shows them in order. */
bool sf_file_start(const struct sf_file *file, uint64_t *start);
/* Whether several requests can be under way for one thread. */
bool sf_file_has_uring(const struct sf_file *file);

/* --- these hold the file by themselves --- */

/* Read exactly LEN bytes; the end of the file is TRUNCATED.  The aligned part goes
 * through the direct descriptor. */
enum sf_status sf_file_read(struct sf_file *file, void *buf, size_t len,
                            uint64_t offset, struct sf_err *err);
enum sf_status sf_file_write(struct sf_file *file, const void *buf, size_t len,
                             uint64_t offset, struct sf_err *err);
/* Find the data extent at or after OFFSET; *LEN = 0 if there is no such extent. */
enum sf_status sf_file_next_extent(struct sf_file *file, uint64_t offset,
                                   uint64_t *start, uint64_t *len, struct sf_err *err);
enum sf_status sf_file_sync(struct sf_file *file, struct sf_err *err);

/* --- for all below, the caller holds the file --- */

/* The buffered descriptor, which stays the file's. */
int sf_file_descriptor(const struct sf_file *file);
/* Read up to LEN bytes, fewer only at the end of the file. */
enum sf_status sf_file_read_some(struct sf_file *file, void *buf, size_t len,
                                 uint64_t offset, size_t *got, struct sf_err *err);
/* As sf_file_read() and sf_file_write(), for up to SF_MAX_PIECES places, at once where
 * that is possible. */
enum sf_status sf_file_read_pieces(struct sf_file *file, const struct sf_piece *pieces,
                                   unsigned count, struct sf_err *err);
enum sf_status sf_file_write_pieces(struct sf_file *file, const struct sf_piece *pieces,
                                    unsigned count, struct sf_err *err);
/* Make [OFFSET, OFFSET + LEN) read as zeros, as a hole where that is possible. */
enum sf_status sf_file_punch(struct sf_file *file, uint64_t offset, uint64_t len,
                             struct sf_err *err);

#endif

/* Failing calls on purpose: the linker sends those of the C core through here. */
#ifndef FAULT_H
#define FAULT_H

#include <stdbool.h>

enum fault_kind {
    FAULT_NONE,
    FAULT_MEMORY, /* calloc and mmap */
    FAULT_THREAD, /* pthread_create */
    FAULT_READ,   /* pread */
    FAULT_WRITE,  /* pwrite */
    FAULT_PUNCH,  /* fallocate */
    FAULT_SYNC,   /* fsync */
    FAULT_SEEK,   /* lseek */
    FAULT_ENTER   /* io_uring_enter */
};

/* The N-th call of KIND from now on fails with ERRNUM, once. */
void fault_at(enum fault_kind kind, unsigned n, int errnum);
/* The N-th call of KIND and all later ones fail with ERRNUM, until fault_off(). */
void fault_from(enum fault_kind kind, unsigned n, int errnum);
/* It has happened. */
bool fault_hit(void);
/* Back to normal, for all that is below, too. */
void fault_off(void);

/* Reads and writes move a few bytes only, and every other one is interrupted. */
void fault_stutter(void);
/* io_uring_enter takes one request at a time, and every other one is interrupted. */
void fault_short_enter(void);
/* Every pread and pwrite takes that much longer. */
void fault_slow(long milliseconds);
/* No pread or pwrite gets through before fault_off(). */
void fault_hold(void);

/* Calls of io_uring_enter since the last fault_off(). */
unsigned fault_enters(void);
/* Mappings made and not undone. */
long fault_mappings(void);
/* Calls of pwrite since the last fault_off(). */
unsigned fault_writes(void);
/* Those of them that began inside a page of the file. */
unsigned fault_ragged_writes(void);

#endif

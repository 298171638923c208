/* The error value: what failed, where, and why.  It needs no memory of its own. */
#ifndef SF_ERR_H
#define SF_ERR_H

#include "sf_base.h"

enum sf_status {
    SF_OK = 0,
    SF_AGAIN,         /* nothing yet: call again (never an error) */
    SF_E_NOMEM,       /* out of memory */
    SF_E_OS,          /* a system call failed: errnum says why */
    SF_E_RANGE,       /* the caller passed something impossible */
    SF_E_FORMAT,      /* bytes break the format */
    SF_E_TRUNCATED,   /* the file ends too early */
    SF_E_UNSUPPORTED, /* sound, but not handled here */
    SF_E_CONTENT,     /* a delta came where no page content is kept */
    SF_E_CANCELLED,
    SF_E_CLOSED /* the file was closed before */
};

#define SF_NO_OFFSET UINT64_MAX

struct sf_err {
    enum sf_status status;
    int errnum;
    uint64_t offset;
    char message[240];
};

/* All return the status they set, so that `return sf_err_set(...)` reads well. ERR may
 * be NULL, except for sf_err_wrap(). */
enum sf_status sf_err_set(struct sf_err *err, enum sf_status status, uint64_t offset,
                          const char *fmt, ...) SF_PRINTF(4, 5);
enum sf_status sf_err_os(struct sf_err *err, int errnum, uint64_t offset,
                         const char *fmt, ...) SF_PRINTF(4, 5);
/* Put context in front of what ERR says already. */
enum sf_status sf_err_wrap(struct sf_err *err, const char *fmt, ...) SF_PRINTF(2, 3);

#endif

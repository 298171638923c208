/* The error value. */
#include "sf_err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void fill(struct sf_err *err, enum sf_status status, int errnum, uint64_t offset,
                 const char *fmt, va_list args)
{
    err->status = status;
    err->errnum = errnum;
    err->offset = offset;
    (void)vsnprintf(err->message, sizeof err->message, fmt, args);
}

enum sf_status sf_err_set(struct sf_err *err, enum sf_status status, uint64_t offset,
                          const char *fmt, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        fill(err, status, 0, offset, fmt, args);
        va_end(args);
    }
    return status;
}

enum sf_status sf_err_os(struct sf_err *err, int errnum, uint64_t offset,
                         const char *fmt, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        fill(err, SF_E_OS, errnum, offset, fmt, args);
        va_end(args);
    }
    return SF_E_OS;
}

enum sf_status sf_err_wrap(struct sf_err *err, const char *fmt, ...)
{
    char inner[sizeof err->message];
    char outer[sizeof err->message];
    va_list args;

    memcpy(inner, err->message, sizeof inner);
    va_start(args, fmt);
    (void)vsnprintf(outer, sizeof outer, fmt, args);
    va_end(args);
    (void)snprintf(err->message, sizeof err->message, "%.100s: %.130s", outer, inner);
    return err->status;
}

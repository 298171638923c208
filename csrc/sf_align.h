/* What direct I/O wants of offset, length and memory. */
#ifndef SF_ALIGN_H
#define SF_ALIGN_H

#include "sf_base.h"

/* The alignment for FD, at least a page of 4 KiB; 0 when its file system has no direct
 * I/O. */
uint32_t sf_align_direct(int fd);

#endif

/* Memory for transfers. */
#ifndef SF_BUFFER_H
#define SF_BUFFER_H

#include "sf_base.h"

/* Page-aligned memory, good for every direct transfer; NULL when there is none. */
void *sf_buffer_alloc(size_t len);
/* Whether a long buffer for each thread costs nothing: false where the address space is
 * limited (RLIMIT_AS) or every page is paid for beforehand (strict overcommit). */
bool sf_buffer_is_free(void);
/* For a long buffer of which little is touched at a time: no more of it takes memory
 * than is touched, and nothing once it is dropped. */
void sf_buffer_thin(void *buf, size_t len);
void sf_buffer_drop(void *buf, size_t len);
void sf_buffer_free(void *buf, size_t len);

#endif

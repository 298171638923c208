/* Memory for transfers. */
#include "sf_buffer.h"

#include <sys/mman.h>

/* More than all buffers of a job together. */
#define PLENTY ((size_t)128 << 30)

/* Untouched memory is not reserved: a long buffer costs what it holds. */
static void *map_memory(size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void *sf_buffer_alloc(size_t len)
{
    return map_memory(len);
}

bool sf_buffer_is_free(void)
{
    void *p = map_memory(PLENTY);

    sf_buffer_free(p, PLENTY);
    return p != NULL;
}

void sf_buffer_thin(void *buf, size_t len)
{
    (void)madvise(buf, len, MADV_NOHUGEPAGE);
}

void sf_buffer_drop(void *buf, size_t len)
{
    (void)madvise(buf, len, MADV_DONTNEED);
}

void sf_buffer_free(void *buf, size_t len)
{
    if (buf != NULL) {
        (void)munmap(buf, len);
    }
}

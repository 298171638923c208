/* What direct I/O wants, asked of the kernel. */
#include "sf_align.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FALLBACK_ALIGN 4096u

/* The kernel's struct statx as far as the DIO alignments (Linux 6.1); the C library's
 * headers of the oldest supported system do not have them yet. */
struct statx_dio {
    uint32_t mask;
    uint8_t skipped[148];
    uint32_t mem_align;
    uint32_t offset_align;
    uint8_t rest[96];
};
#define STATX_DIOALIGN_BIT 0x2000u

uint32_t sf_align_direct(int fd)
{
#ifdef SYS_statx
    struct statx_dio st = {0};
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN_BIT, &st) == 0 &&
        (st.mask & STATX_DIOALIGN_BIT)) {
        if (st.offset_align == 0) {
            return 0;
        }
        const uint32_t align =
            st.mem_align > st.offset_align ? st.mem_align : st.offset_align;
        /* A length that is a whole number of pages never splits a block. */
        return align > FALLBACK_ALIGN ? align : FALLBACK_ALIGN;
    }
#endif
    return FALLBACK_ALIGN;
}

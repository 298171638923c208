/* A library to preload that makes part of one file unreadable, as bad sectors do.
 *
 * SAVEFMT_BAD is START:END:PATH, both numbers decimal. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

ssize_t pread(int fd, void *buf, size_t count, off_t offset);
ssize_t pread64(int fd, void *buf, size_t count, off_t offset);

static int is_bad(int fd, size_t count, off_t offset)
{
    const char *told = getenv("SAVEFMT_BAD");
    long long start, end;
    int used = 0;
    char link[40];
    char path[PATH_MAX];

    if (told == NULL || sscanf(told, "%lld:%lld:%n", &start, &end, &used) != 2) {
        return 0;
    }
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) {
        return 0;
    }
    path[length] = 0;
    return strcmp(path, told + used) == 0 && offset < end &&
           offset + (long long)count > start;
}

ssize_t pread(int fd, void *buf, size_t count, off_t offset)
{
    if (is_bad(fd, count, offset)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pread64, fd, buf, count, offset);
}

ssize_t pread64(int fd, void *buf, size_t count, off_t offset)
{
    return pread(fd, buf, count, offset);
}

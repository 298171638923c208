/* A library to preload that makes one system call of a program fail on purpose.
 *
 * Only calls on files below a folder count, and memory that the C core asks for: what
 * the interpreter does for itself is left alone.  faulty_arm() chooses the call. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define URING_SETUP 425

enum { SHORT = 0 }; /* instead of an errno: half of it is done */

static char folder[PATH_MAX];
static char wanted[32];
static atomic_int left;
static atomic_int calls;
static atomic_int struck;
static int failure;

void faulty_arm(const char *below, const char *call, int n, int errnum);
int faulty_hit(void);
int faulty_calls(void);

/* Let the N-th CALL from now on fail with ERRNUM. */
void faulty_arm(const char *below, const char *call, int n, int errnum)
{
    (void)snprintf(folder, sizeof folder, "%s", below);
    (void)snprintf(wanted, sizeof wanted, "%s", call);
    failure = errnum;
    atomic_store(&calls, 0);
    atomic_store(&struck, 0);
    atomic_store(&left, n);
}

int faulty_hit(void)
{
    return atomic_load(&struck);
}

/* How often the call was made. */
int faulty_calls(void)
{
    return atomic_load(&calls);
}

static bool is_below(const char *path)
{
    return folder[0] != 0 && strncmp(path, folder, strlen(folder)) == 0;
}

static bool is_ours(int fd)
{
    char link[32];
    char path[PATH_MAX];

    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t len = readlink(link, path, sizeof path - 1);
    path[len > 0 ? len : 0] = 0;
    return is_below(path);
}

/* Whether this is the one; then errno is set. */
static bool counts(const char *call)
{
    if (strcmp(call, wanted) != 0) {
        return false;
    }
    atomic_fetch_add(&calls, 1);
    if (atomic_fetch_sub(&left, 1) != 1) {
        return false;
    }
    atomic_store(&struck, 1);
    errno = failure;
    return true;
}

static bool fails(const char *call, int fd)
{
    const int before = errno;
    if (strcmp(call, wanted) != 0 || !is_ours(fd)) {
        errno = before;
        return false;
    }
    errno = before;
    return counts(call);
}

static bool fails_at(const char *call, const char *path)
{
    char whole[PATH_MAX];

    if (path[0] != '/') {
        return getcwd(whole, sizeof whole) != NULL && is_below(whole) && counts(call);
    }
    if (strncmp(path, "/proc/", strlen("/proc/")) == 0) { /* a file without a name */
        const ssize_t len = readlink(path, whole, sizeof whole - 1);
        whole[len > 0 ? len : 0] = 0;
        path = whole;
    }
    return is_below(path) && counts(call);
}

#define REAL(result, name, ...)                                                        \
    static result (*real)(__VA_ARGS__);                                                \
    if (real == NULL) {                                                                \
        *(void **)&real = dlsym(RTLD_NEXT, #name);                                     \
    }

/* NAME as the program calls it counts as CALL. */
#define TRANSFER(name, call, pointer)                                                  \
    ssize_t name(int fd, pointer buf, size_t len, off_t offset);                       \
    ssize_t name(int fd, pointer buf, size_t len, off_t offset)                        \
    {                                                                                  \
        REAL(ssize_t, name, int, pointer, size_t, off_t)                               \
        if (fails(call, fd)) {                                                         \
            if (failure != SHORT) {                                                    \
                return -1;                                                             \
            }                                                                          \
            len = (len + 1) / 2;                                                       \
        }                                                                              \
        return real(fd, buf, len, offset);                                             \
    }

#define STREAM(name, call, pointer)                                                    \
    ssize_t name(int fd, pointer buf, size_t len);                                     \
    ssize_t name(int fd, pointer buf, size_t len)                                      \
    {                                                                                  \
        REAL(ssize_t, name, int, pointer, size_t)                                      \
        if (fails(call, fd)) {                                                         \
            if (failure != SHORT) {                                                    \
                return -1;                                                             \
            }                                                                          \
            len = (len + 1) / 2;                                                       \
        }                                                                              \
        return real(fd, buf, len);                                                     \
    }

#define ON_FD(name, call, types, names, ...)                                           \
    int name types;                                                                    \
    int name types                                                                     \
    {                                                                                  \
        REAL(int, name, __VA_ARGS__)                                                   \
        return fails(call, fd) ? -1 : real names;                                      \
    }

#define ON_PATHS(name, types, names, ...)                                              \
    int name types;                                                                    \
    int name types                                                                     \
    {                                                                                  \
        REAL(int, name, __VA_ARGS__)                                                   \
        return fails_at("rename", from) ? -1 : real names;                             \
    }

TRANSFER(pread, "pread", void *)
TRANSFER(pread64, "pread", void *)
TRANSFER(pwrite, "pwrite", const void *)
TRANSFER(pwrite64, "pwrite", const void *)
STREAM(read, "pread", void *)
STREAM(write, "pwrite", const void *)
ON_FD(fsync, "fsync", (int fd), (fd), int)
ON_FD(fdatasync, "fsync", (int fd), (fd), int)
ON_FD(ftruncate, "ftruncate", (int fd, off_t len), (fd, len), int, off_t)
ON_FD(ftruncate64, "ftruncate", (int fd, off_t len), (fd, len), int, off_t)
ON_FD(fallocate, "fallocate", (int fd, int mode, off_t offset, off_t len),
      (fd, mode, offset, len), int, int, off_t, off_t)
ON_FD(fallocate64, "fallocate", (int fd, int mode, off_t offset, off_t len),
      (fd, mode, offset, len), int, int, off_t, off_t)
ON_FD(fstat, "fstat", (int fd, struct stat *st), (fd, st), int, struct stat *)
ON_FD(fstat64, "fstat", (int fd, struct stat64 *st), (fd, st), int, struct stat64 *)
ON_PATHS(rename, (const char *from, const char *to), (from, to), const char *,
         const char *)
ON_PATHS(link, (const char *from, const char *to), (from, to), const char *,
         const char *)
ON_PATHS(renameat, (int dir, const char *from, int at, const char *to),
         (dir, from, at, to), int, const char *, int, const char *)
ON_PATHS(renameat2, (int dir, const char *from, int at, const char *to, unsigned flags),
         (dir, from, at, to, flags), int, const char *, int, const char *, unsigned)
ON_PATHS(linkat, (int dir, const char *from, int at, const char *to, int flags),
         (dir, from, at, to, flags), int, const char *, int, const char *, int)

#define SEEK(name)                                                                     \
    off_t name(int fd, off_t offset, int whence);                                      \
    off_t name(int fd, off_t offset, int whence)                                       \
    {                                                                                  \
        REAL(off_t, name, int, off_t, int)                                             \
        return fails("lseek", fd) ? -1 : real(fd, offset, whence);                     \
    }
SEEK(lseek)
SEEK(lseek64)

ssize_t copy_file_range(int from, off_t *start, int to, off_t *at, size_t len,
                        unsigned flags)
{
    REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned)
    if (fails("copy_file_range", to)) {
        if (failure != SHORT) {
            return -1;
        }
        len = (len + 1) / 2;
    }
    return real(from, start, to, at, len, flags);
}

/* The number is free afterwards, as it is on Linux. */
int close(int fd)
{
    REAL(int, close, int)
    const bool failing = fails("close", fd);
    const int errnum = errno;
    const int result = real(fd);

    if (failing) {
        errno = errnum;
        return -1;
    }
    return result;
}

/* Without io_uring, so that each transfer is a call that can fail. */
long syscall(long number, ...)
{
    REAL(long, syscall, long, ...)
    long given[6];
    va_list list;

    va_start(list, number);
    for (unsigned i = 0; i < 6; i++) {
        given[i] = va_arg(list, long);
    }
    va_end(list);
    if (number == URING_SETUP) {
        errno = ENOSYS;
        return -1;
    }
    if (number == SYS_statx && fails("fstat", (int)given[0])) {
        return -1;
    }
    return real(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}

static bool is_the_core(const void *caller)
{
    Dl_info info;
    return dladdr(caller, &info) != 0 && info.dli_fname != NULL &&
           strstr(info.dli_fname, "_core.") != NULL;
}

#define MAP(name)                                                                      \
    void *name(void *at, size_t len, int protection, int flags, int fd, off_t offset)  \
    {                                                                                  \
        REAL(void *, name, void *, size_t, int, int, int, off_t)                       \
        if (strcmp(wanted, "mmap") == 0 && is_the_core(__builtin_return_address(0)) && \
            counts("mmap")) {                                                          \
            return MAP_FAILED;                                                         \
        }                                                                              \
        return real(at, len, protection, flags, fd, offset);                           \
    }
MAP(mmap)
MAP(mmap64)

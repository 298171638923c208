/* Failing calls on purpose. */
#include "fault.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>

#define STUTTER 4096u
#define CALL_ENTER 426

static atomic_int failing_kind;
static atomic_uint countdown;
static atomic_int failing_errno;
static atomic_bool hit;
static atomic_bool lasting;
static atomic_bool stutters;
static atomic_bool short_enter;
static atomic_uint enters;
static atomic_uint stutter_calls;
static atomic_long delay;
static atomic_bool holds;
static atomic_long mappings;
static atomic_uint writes;
static atomic_uint ragged_writes;

void fault_at(enum fault_kind kind, unsigned n, int errnum)
{
    atomic_store(&failing_kind, FAULT_NONE);
    atomic_store(&hit, false);
    atomic_store(&lasting, false);
    atomic_store(&countdown, n);
    atomic_store(&failing_errno, errnum);
    atomic_store(&failing_kind, (int)kind);
}

void fault_from(enum fault_kind kind, unsigned n, int errnum)
{
    fault_at(FAULT_NONE, n, errnum);
    atomic_store(&lasting, true);
    atomic_store(&failing_kind, (int)kind);
}

bool fault_hit(void)
{
    return atomic_load(&hit);
}

void fault_off(void)
{
    atomic_store(&failing_kind, FAULT_NONE);
    atomic_store(&stutters, false);
    atomic_store(&short_enter, false);
    atomic_store(&enters, 0);
    atomic_store(&delay, 0);
    atomic_store(&holds, false);
    atomic_store(&writes, 0);
    atomic_store(&ragged_writes, 0);
}

void fault_stutter(void)
{
    atomic_store(&stutter_calls, 0);
    atomic_store(&stutters, true);
}

void fault_short_enter(void)
{
    atomic_store(&short_enter, true);
}

unsigned fault_enters(void)
{
    return atomic_load(&enters);
}

void fault_slow(long milliseconds)
{
    atomic_store(&delay, milliseconds);
}

void fault_hold(void)
{
    atomic_store(&holds, true);
}

long fault_mappings(void)
{
    return atomic_load(&mappings);
}

unsigned fault_writes(void)
{
    return atomic_load(&writes);
}

unsigned fault_ragged_writes(void)
{
    return atomic_load(&ragged_writes);
}

/* The errno to fail with, or 0. */
static int strike(enum fault_kind kind)
{
    if (atomic_load(&failing_kind) != (int)kind) {
        return 0;
    }
    if (!atomic_load(&lasting) || !atomic_load(&hit)) {
        if (atomic_fetch_sub(&countdown, 1) != 1) {
            return 0;
        }
    }
    if (!atomic_load(&lasting)) {
        atomic_store(&failing_kind, FAULT_NONE);
    }
    atomic_store(&hit, true);
    return atomic_load(&failing_errno);
}

static void sleep_for(long milliseconds)
{
    const struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    if (milliseconds != 0) {
        nanosleep(&time, NULL);
    }
}

/* Before a transfer of *LEN bytes: true if it is to fail, errno being set. */
static bool disturb(enum fault_kind kind, size_t *len)
{
    sleep_for(atomic_load(&delay));
    while (atomic_load(&holds)) {
        sleep_for(1);
    }
    const int errnum = strike(kind);
    if (errnum != 0) {
        errno = errnum;
        return true;
    }
    if (atomic_load(&stutters)) {
        if (atomic_fetch_add(&stutter_calls, 1) % 2) {
            errno = EINTR;
            return true;
        }
        if (*len > STUTTER) {
            *len = STUTTER;
        }
    }
    return false;
}

void *__real_calloc(size_t count, size_t len);
void *__real_mmap(void *at, size_t len, int protection, int flags, int fd,
                  off_t offset);
int __real_munmap(void *at, size_t len);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                          void *(*run)(void *), void *argument);
ssize_t __real_pread(int fd, void *buf, size_t len, off_t offset);
ssize_t __real_pwrite(int fd, const void *buf, size_t len, off_t offset);
int __real_fallocate(int fd, int mode, off_t offset, off_t len);
int __real_fsync(int fd);
off_t __real_lseek(int fd, off_t offset, int whence);
long __real_syscall(long number, ...);

void *__wrap_calloc(size_t count, size_t len);
void *__wrap_mmap(void *at, size_t len, int protection, int flags, int fd,
                  off_t offset);
int __wrap_munmap(void *at, size_t len);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                          void *(*run)(void *), void *argument);
ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t offset);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t len);
int __wrap_fsync(int fd);
off_t __wrap_lseek(int fd, off_t offset, int whence);
long __wrap_syscall(long number, ...);

void *__wrap_calloc(size_t count, size_t len)
{
    if (strike(FAULT_MEMORY)) {
        errno = ENOMEM;
        return NULL;
    }
    return __real_calloc(count, len);
}

void *__wrap_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    if (strike(FAULT_MEMORY)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    void *p = __real_mmap(at, len, protection, flags, fd, offset);
    if (p != MAP_FAILED) {
        atomic_fetch_add(&mappings, 1);
    }
    return p;
}

int __wrap_munmap(void *at, size_t len)
{
    atomic_fetch_sub(&mappings, 1);
    return __real_munmap(at, len);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                          void *(*run)(void *), void *argument)
{
    const int errnum = strike(FAULT_THREAD);
    return errnum ? errnum : __real_pthread_create(thread, attr, run, argument);
}

ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t offset)
{
    return disturb(FAULT_READ, &len) ? -1 : __real_pread(fd, buf, len, offset);
}

ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
    atomic_fetch_add(&writes, 1);
    atomic_fetch_add(&ragged_writes, offset % 4096 != 0);
    return disturb(FAULT_WRITE, &len) ? -1 : __real_pwrite(fd, buf, len, offset);
}

int __wrap_fallocate(int fd, int mode, off_t offset, off_t len)
{
    const int errnum = strike(FAULT_PUNCH);
    if (errnum != 0) {
        errno = errnum;
        return -1;
    }
    return __real_fallocate(fd, mode, offset, len);
}

int __wrap_fsync(int fd)
{
    const int errnum = strike(FAULT_SYNC);
    if (errnum != 0) {
        errno = errnum;
        return -1;
    }
    return __real_fsync(fd);
}

off_t __wrap_lseek(int fd, off_t offset, int whence)
{
    const int errnum = strike(FAULT_SEEK);
    if (errnum != 0) {
        errno = errnum;
        return -1;
    }
    return __real_lseek(fd, offset, whence);
}

/* With as many arguments as a system call can have. */
long __wrap_syscall(long number, ...)
{
    long given[6];
    va_list list;

    va_start(list, number);
    for (unsigned i = 0; i < 6; i++) {
        given[i] = va_arg(list, long);
    }
    va_end(list);
    if (number == CALL_ENTER) {
        const unsigned calls = atomic_fetch_add(&enters, 1);
        const int errnum = strike(FAULT_ENTER);
        if (errnum != 0 || (atomic_load(&short_enter) && calls % 2)) {
            errno = errnum ? errnum : EINTR;
            return -1;
        }
        if (atomic_load(&short_enter) && given[1] > 1) {
            given[1] = 1;
            given[2] = 0;
        }
    }
    return __real_syscall(number, given[0], given[1], given[2], given[3], given[4],
                          given[5]);
}

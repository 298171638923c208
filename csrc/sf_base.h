/* Checked arithmetic, alignment and attributes that every unit uses. */
#ifndef SF_BASE_H
#define SF_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

_Static_assert(sizeof(off_t) == 8, "files are longer than 2 GiB");

#define SF_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

#define SF_MAX_THREADS 64u
#define SF_MIN_PAGE 256u
#define SF_MAX_PAGE 65536u

static inline bool sf_is_power_of_2(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* ALIGN is a power of two in all of these. */
static inline uint64_t sf_align_down(uint64_t value, uint64_t align)
{
    return value & ~(align - 1);
}

static inline uint64_t sf_align_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) & ~(align - 1);
}

static inline uint64_t sf_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t sf_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline uint16_t sf_be16(const uint8_t *p)
{
    return (uint16_t)((uint16_t)p[0] << 8 | p[1]);
}

static inline uint64_t sf_be64(const uint8_t *p)
{
    uint64_t value;
    __builtin_memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static inline void sf_put_be64(uint8_t *p, uint64_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    __builtin_memcpy(p, &value, sizeof value);
}

#endif

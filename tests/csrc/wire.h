/* Building page records byte by byte. */
#ifndef WIRE_H
#define WIRE_H

#include "check.h"

enum {
    WIRE_ZERO = 0x02,
    WIRE_PAGE = 0x08,
    WIRE_EOS = 0x10,
    WIRE_CONTINUE = 0x20,
    WIRE_XBZRLE = 0x40,
    WIRE_HOOK = 0x80,
    WIRE_COMPRESS = 0x100,
    WIRE_FLUSH = 0x200
};

struct wire {
    uint8_t *data;
    size_t len;
    size_t room;
};

static inline void wire_bytes(struct wire *wire, const void *bytes, size_t len)
{
    if (wire->room - wire->len < len) {
        wire->room = 2 * wire->room + len;
        wire->data = realloc(wire->data, wire->room);
        CHECK(wire->data != NULL);
    }
    if (len != 0) {
        memcpy(wire->data + wire->len, bytes, len);
        wire->len += len;
    }
}

static inline void wire_byte(struct wire *wire, unsigned byte)
{
    const uint8_t value = (uint8_t)byte;
    wire_bytes(wire, &value, 1);
}

static inline void wire_u64(struct wire *wire, uint64_t value)
{
    uint8_t bytes[8];
    for (unsigned i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(value >> (56 - 8 * i));
    }
    wire_bytes(wire, bytes, sizeof bytes);
}

static inline void wire_name(struct wire *wire, const char *name)
{
    wire_byte(wire, (unsigned)strlen(name));
    wire_bytes(wire, name, strlen(name));
}

/* A word, and the block's name unless it is NULL: then it continues. */
static inline void wire_head(struct wire *wire, uint64_t address, unsigned type,
                             const char *name)
{
    wire_u64(wire, address | type | (name == NULL ? WIRE_CONTINUE : 0u));
    if (name != NULL) {
        wire_name(wire, name);
    }
}

static inline void wire_zero(struct wire *wire, uint64_t address, const char *name)
{
    wire_head(wire, address, WIRE_ZERO, name);
    wire_byte(wire, 0);
}

static inline void wire_page(struct wire *wire, uint64_t address, const char *name,
                             const uint8_t *page, size_t page_size)
{
    wire_head(wire, address, WIRE_PAGE, name);
    wire_bytes(wire, page, page_size);
}

static inline void wire_delta(struct wire *wire, uint64_t address, const char *name,
                              const uint8_t *delta, size_t len)
{
    wire_head(wire, address, WIRE_XBZRLE, name);
    wire_byte(wire, 1);
    wire_byte(wire, (unsigned)(len >> 8));
    wire_byte(wire, (unsigned)(len & 0xff));
    wire_bytes(wire, delta, len);
}

static inline void wire_end(struct wire *wire)
{
    wire_u64(wire, WIRE_EOS);
}

static inline void wire_free(struct wire *wire)
{
    free(wire->data);
    *wire = (struct wire){0};
}

#endif

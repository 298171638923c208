/* A small guest in memory, its mapped-ram file, and streams that tell of it: the slow,
 * obvious counterpart of the C core. */
#ifndef GUEST_H
#define GUEST_H

#include "sf_pages.h"
#include "sf_scan.h"
#include "sf_sum.h"
#include "wire.h"

#define GUEST_BLOCKS 3u

struct guest {
    uint32_t page_size;
    const char *names[GUEST_BLOCKS];
    uint64_t counts[GUEST_BLOCKS];
    uint8_t *content[GUEST_BLOCKS];
    uint8_t *bitmaps[GUEST_BLOCKS];
};

static char guest_long_name[256];

static inline size_t bitmap_length(uint64_t count)
{
    return (size_t)((count + 63) / 64 * 8);
}

/* All zero and absent.  The second block is empty, the name of the third is as long as
 * can be. */
static inline void guest_init(struct guest *guest, uint32_t page_size, uint64_t first,
                              uint64_t third)
{
    memset(guest_long_name, 'x', 255);
    *guest =
        (struct guest){page_size, {"pc.ram", "none", guest_long_name}, {0}, {0}, {0}};
    guest->counts[0] = first;
    guest->counts[2] = third;
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        guest->content[i] = grab((size_t)(guest->counts[i] * page_size));
        guest->bitmaps[i] = grab(bitmap_length(guest->counts[i]));
    }
}

static inline void guest_free(struct guest *guest)
{
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        free(guest->content[i]);
        free(guest->bitmaps[i]);
    }
}

static inline uint8_t *guest_page(const struct guest *guest, unsigned block,
                                  uint64_t page)
{
    return guest->content[block] + page * guest->page_size;
}

/* A guest of so many pages has them far apart. */
#define GUEST_FAR_APART 30000u

static inline void guest_put(struct guest *guest, struct dice *dice, unsigned block,
                             uint64_t page)
{
    sf_bit_set(guest->bitmaps[block], page);
    if (below(dice, 8) != 0) {
        fill_random(dice, guest_page(guest, block, page), 64);
        guest_page(guest, block, page)[guest->page_size - 1] = 1;
    }
}

/* Runs of present and absent pages of random length; some present ones are zero. */
static inline void guest_fill(struct guest *guest, struct dice *dice)
{
    if (guest->counts[0] >= GUEST_FAR_APART) {
        for (uint64_t page = 0; page < guest->counts[0]; page += 1 + below(dice, 600)) {
            guest_put(guest, dice, 0, page);
        }
        return;
    }
    for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
        uint64_t page = 0;
        while (page < guest->counts[block]) {
            const uint64_t limit = below(dice, 8) ? 6 : 300;
            const uint64_t end =
                sf_min(page + 1 + below(dice, limit), guest->counts[block]);
            const bool present = below(dice, 2) != 0;
            for (; page < end; page++) {
                if (present) {
                    guest_put(guest, dice, block, page);
                }
            }
        }
    }
}

static inline uint64_t guest_present(const struct guest *guest)
{
    uint64_t total = 0;
    for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
        for (uint64_t page = 0; page < guest->counts[block]; page++) {
            total += sf_bit_test(guest->bitmaps[block], page);
        }
    }
    return total;
}

/* Where the pages of each block go from OFFSET on: 1 MiB apart, as QEMU does it. */
static inline uint64_t guest_place(const struct guest *guest, uint64_t offset,
                                   struct sf_pages pages[GUEST_BLOCKS])
{
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        offset = sf_align_up(offset, 1u << 20);
        pages[i] = (struct sf_pages){guest->bitmaps[i], guest->counts[i], offset,
                                     guest->page_size, 0};
        offset += guest->counts[i] * guest->page_size;
    }
    return offset;
}

/* The mapped-ram file of the guest, with old bytes under clear bits. */
static inline struct sf_file *guest_file(const struct guest *guest, unsigned flags,
                                         struct sf_pages pages[GUEST_BLOCKS])
{
    const uint64_t length = guest_place(guest, 12345, pages);
    struct sf_file *file = scratch_file(length, flags);
    uint8_t *stale = grab(guest->page_size);
    struct sf_err err;

    memset(stale, 0xee, guest->page_size);
    for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
        const uint64_t offset = pages[block].offset;
        const size_t len = (size_t)(guest->counts[block] * guest->page_size);
        CHECK_OK(sf_file_write(file, guest->content[block], len, offset, &err), &err);
        for (uint64_t page = 0; page < guest->counts[block]; page++) {
            if (!sf_bit_test(guest->bitmaps[block], page)) {
                CHECK_OK(sf_file_write(file, stale, guest->page_size,
                                       offset + page * guest->page_size, &err),
                         &err);
            }
        }
    }
    free(stale);
    return file;
}

/* All pages of the guest as records, in order, each block named once. */
static inline void guest_records(const struct guest *guest, struct wire *wire)
{
    for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
        for (uint64_t page = 0; page < guest->counts[block]; page++) {
            const char *name = page == 0 ? guest->names[block] : NULL;
            const uint64_t address = page * guest->page_size;
            if (sf_bit_test(guest->bitmaps[block], page)) {
                wire_page(wire, address, name, guest_page(guest, block, page),
                          guest->page_size);
            } else {
                wire_zero(wire, address, name);
            }
        }
    }
}

static inline struct sf_scan *guest_scan(const struct guest *guest)
{
    struct sf_scan_block blocks[GUEST_BLOCKS] = {{0}};
    struct sf_scan *scan = NULL;
    struct sf_err err;

    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        blocks[i].name = guest->names[i];
        blocks[i].name_length = (uint32_t)strlen(guest->names[i]);
        blocks[i].length = guest->counts[i] * guest->page_size;
    }
    CHECK_OK(sf_scan_new(guest->page_size, blocks, GUEST_BLOCKS, &scan, &err), &err);
    return scan;
}

/* --- page sums --- */

static inline uint64_t *random_key(struct dice *dice)
{
    const size_t words = SF_SUM_KEY_WORDS(SF_MAX_PAGE);
    uint64_t *key = grab(words * sizeof *key);
    fill_random(dice, (uint8_t *)key, words * sizeof *key);
    return key;
}

static inline void guest_tables(const struct guest *guest,
                                struct sf_table *tables[GUEST_BLOCKS])
{
    struct sf_err err;
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        CHECK_OK(sf_table_new(guest->counts[i], &tables[i], &err), &err);
    }
}

static inline void free_tables(struct sf_table *tables[GUEST_BLOCKS])
{
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        sf_table_free(tables[i]);
    }
}

static inline void check_sums(const struct guest *guest,
                              struct sf_table *tables[GUEST_BLOCKS],
                              const uint64_t *key)
{
    for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
        for (uint64_t page = 0; page < guest->counts[block]; page++) {
            CHECK_EQ(
                sf_table_entries(tables[block])[page],
                sf_sum_page(key, guest_page(guest, block, page), guest->page_size));
        }
    }
}

/* --- a guest that runs while it is saved --- */

/* A delta that turns OLD into another page, and that page; at most 4 changes. */
static inline size_t make_delta(struct dice *dice, uint8_t *page, uint32_t page_size,
                                uint8_t *delta)
{
    size_t len = 0;
    uint32_t at = 0;
    const uint64_t nruns = below(dice, 5);

    for (uint64_t i = 0; i < nruns && page_size - at > 200; i++) {
        const uint32_t keep = (uint32_t)(i != 0) + (uint32_t)below(dice, 190);
        const uint32_t change = 1 + (uint32_t)below(dice, 9);
        at += keep;
        if (keep >= 128) {
            delta[len++] = (uint8_t)(keep & 0x7f) | 0x80;
            delta[len++] = (uint8_t)(keep >> 7);
        } else {
            delta[len++] = (uint8_t)keep;
        }
        delta[len++] = (uint8_t)change;
        for (uint32_t byte = 0; byte < change; byte++) {
            page[at] = delta[len++] = (uint8_t)roll(dice);
            at++;
        }
    }
    return len;
}

/* NRECORDS random records on few pages, so that they meet again; the guest follows.
 * DELTAS out of 8 of them are deltas. */
static inline void guest_live(struct guest *guest, struct dice *dice, unsigned nrecords,
                              unsigned deltas, struct wire *wire)
{
    unsigned last = GUEST_BLOCKS;
    uint64_t base = 0;

    for (unsigned i = 0; i < nrecords; i++) {
        const unsigned block = below(dice, 8) ? 0 : 2;
        if (below(dice, 40) == 0) {
            base = roll(dice);
        }
        const uint64_t number =
            (base + below(dice, 24) * (1 + base % 7)) % guest->counts[block];
        uint8_t *page = guest_page(guest, block, number);
        const char *name = block == last && below(dice, 9) ? NULL : guest->names[block];
        const uint64_t address = number * guest->page_size;
        const uint64_t choice = below(dice, 8);

        last = block;
        if (choice < deltas) {
            uint8_t delta[512];
            const size_t len = make_delta(dice, page, guest->page_size, delta);
            wire_delta(wire, address, name, delta, len);
            sf_bit_set(guest->bitmaps[block], number);
        } else if (choice == 7) {
            memset(page, 0, guest->page_size);
            wire_zero(wire, address, name);
            sf_bit_clear(guest->bitmaps[block], number);
        } else {
            memset(page, 0, guest->page_size);
            if (choice != 6) {
                fill_random(dice, page + below(dice, guest->page_size - 32), 32);
            }
            wire_page(wire, address, name, page, guest->page_size);
            sf_bit_set(guest->bitmaps[block], number);
        }
        if (below(dice, 50) == 0) {
            wire_u64(wire, guest->page_size > 512 ? WIRE_FLUSH : WIRE_HOOK);
        }
    }
}

#endif

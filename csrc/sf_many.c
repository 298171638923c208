/* Occurrences of many texts at once.
 *
 * Of every text, a few bytes are its atom.  The atoms of all texts are set in a bitmap
 * by their hash, small enough for a core's nearest cache; going through the data costs
 * a look into it, and only where a bit is set are texts compared.  Where all texts are
 * longer than an atom, it is enough to look at every second, third ... place: each text
 * then has as many atoms, one behind the other, and one of them begins at such a place.
 */
#include "sf_many.h"

#include <stdlib.h>
#include <string.h>

#define ATOM 4u
#define MAX_STRIDE 8u
#define MAX_TEXTS (1u << 24)
/* Bits in the map for each atom, as far as that is possible. */
#define SPARSE 32u
#define MIN_BITS 14u
#define MAX_BITS 22u
/* More texts with one atom than these, and it is worth while to choose better atoms. */
#define CROWD 32u
/* The bit by which letters differ in case: always set, also in bytes that are not
 * letters. */
#define CASE 0x20u

struct entry {
    uint32_t number; /* of the text */
    uint32_t offset; /* of the atom in it */
};

struct sf_many {
    struct sf_pattern *patterns;
    uint32_t count;
    uint32_t stride; /* places are multiples of it */
    uint32_t atom;   /* bytes, 1 to ATOM */
    uint32_t bits;   /* of a hash */
    uint32_t longest;
    uint32_t *first;  /* for each text, the offset of the first of STRIDE atoms */
    uint64_t *map;    /* a bit for each hash */
    uint32_t *starts; /* for each hash and the one behind the last: in ENTRIES */
    struct entry *entries;
};

/* How an atom becomes a number below 2 to the BITS. */
struct hashing {
    uint32_t mask;  /* of its bytes */
    uint32_t shift; /* 32 - BITS */
};

static struct hashing hashing_of(const struct sf_many *many)
{
    return (struct hashing){UINT32_MAX >> 8 * (ATOM - many->atom), 32 - many->bits};
}

static inline uint32_t hash_at(struct hashing hashing, const uint8_t *p, size_t left)
{
    uint32_t word = 0;

    if (left >= sizeof word) {
        memcpy(&word, p, sizeof word);
    } else {
        memcpy(&word, p, left);
    }
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap32(word);
#endif
    word = (word | CASE * 0x01010101u) & hashing.mask;
    return (word * 0x9e3779b1u) >> hashing.shift;
}

static uint32_t hash_of(const struct sf_many *many, uint32_t number, uint32_t offset)
{
    const struct sf_pattern *pattern = &many->patterns[number];
    return hash_at(hashing_of(many), pattern->value + offset, pattern->length - offset);
}

static enum sf_status take_patterns(struct sf_many *many,
                                    const struct sf_pattern *patterns,
                                    struct sf_err *err)
{
    size_t shortest = SIZE_MAX;

    memcpy(many->patterns, patterns, many->count * sizeof *patterns);
    for (uint32_t i = 0; i < many->count; i++) {
        if (patterns[i].length == 0 || patterns[i].length > UINT32_MAX) {
            return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "a text of %zu bytes",
                              patterns[i].length);
        }
        for (size_t at = 0; at < patterns[i].length; at++) {
            if ((patterns[i].mask[at] | CASE) != 0xff) {
                return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "no text: wildcards");
            }
        }
        shortest = sf_min(shortest, patterns[i].length);
    }
    many->atom = (uint32_t)sf_min(shortest, ATOM);
    many->stride = (uint32_t)sf_min(shortest - many->atom + 1, MAX_STRIDE);
    many->bits = MIN_BITS;
    while (many->bits < MAX_BITS &&
           1u << many->bits < SPARSE * (uint64_t)many->count * many->stride) {
        many->bits++;
    }
    return SF_OK;
}

/* Count the atoms of each hash and put them in order: those of one text with the last
 * one first, so that its matches come in ascending order. */
static void enter_atoms(struct sf_many *many)
{
    const size_t nhashes = (size_t)1 << many->bits;
    uint32_t *starts = many->starts;

    memset(starts, 0, (nhashes + 1) * sizeof *starts);
    memset(many->map, 0, nhashes / 8);
    for (uint32_t i = 0; i < many->count; i++) {
        for (uint32_t k = 0; k < many->stride; k++) {
            const uint32_t hash = hash_of(many, i, many->first[i] + k);
            starts[hash + 1]++;
            many->map[hash / 64] |= UINT64_C(1) << hash % 64;
        }
    }
    many->longest = 0;
    for (size_t hash = 0; hash < nhashes; hash++) {
        many->longest = (uint32_t)sf_max(many->longest, starts[hash + 1]);
        starts[hash + 1] += starts[hash];
    }
    for (uint32_t i = many->count; i-- > 0;) {
        for (uint32_t k = 0; k < many->stride; k++) {
            const uint32_t offset = many->first[i] + k;
            /* From the end of the stretch down to its beginning. */
            const uint32_t hash = hash_of(many, i, offset);
            many->entries[--starts[hash + 1]] = (struct entry){i, offset};
        }
    }
    /* The counter ends at the beginning of the stretch, one place too far. */
    memmove(starts, starts + 1, nhashes * sizeof *starts);
    starts[nhashes] = many->count * many->stride;
}

/* Give each text the one atom that it shares with the fewest others. */
static void choose_atoms(struct sf_many *many)
{
    const size_t nhashes = (size_t)1 << many->bits;
    uint32_t *shared = many->starts;

    memset(shared, 0, (nhashes + 1) * sizeof *shared);
    many->stride = 1;
    for (uint32_t i = 0; i < many->count; i++) {
        for (uint32_t at = 0; at + many->atom <= many->patterns[i].length; at++) {
            shared[hash_of(many, i, at)]++;
        }
    }
    for (uint32_t i = 0; i < many->count; i++) {
        uint32_t fewest = UINT32_MAX;
        for (uint32_t at = 0; at + many->atom <= many->patterns[i].length; at++) {
            const uint32_t others = shared[hash_of(many, i, at)];
            if (others < fewest) {
                fewest = others;
                many->first[i] = at;
            }
        }
    }
}

enum sf_status sf_many_new(const struct sf_pattern *patterns, uint32_t count,
                           struct sf_many **out, struct sf_err *err)
{
    enum sf_status status;

    if (count == 0 || count > MAX_TEXTS) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "%u texts", count);
    }
    struct sf_many *many = calloc(1, sizeof *many);
    if (many == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "texts");
    }
    many->count = count;
    many->patterns = calloc(count, sizeof *many->patterns);
    many->first = calloc(count, sizeof *many->first);
    if (many->patterns == NULL || many->first == NULL) {
        status = sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "texts");
        goto fail;
    }
    status = take_patterns(many, patterns, err);
    if (status != SF_OK) {
        goto fail;
    }
    const size_t nhashes = (size_t)1 << many->bits;
    many->map = calloc(nhashes / 64, sizeof *many->map);
    many->starts = calloc(nhashes + 1, sizeof *many->starts);
    many->entries = calloc((size_t)count * many->stride, sizeof *many->entries);
    if (many->map == NULL || many->starts == NULL || many->entries == NULL) {
        status = sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "texts");
        goto fail;
    }
    enter_atoms(many);
    if (many->longest > CROWD) {
        choose_atoms(many);
        enter_atoms(many);
    }
    *out = many;
    return SF_OK;

fail:
    sf_many_free(many);
    return status;
}

void sf_many_free(struct sf_many *many)
{
    if (many == NULL) {
        return;
    }
    free(many->patterns);
    free(many->first);
    free(many->map);
    free(many->starts);
    free(many->entries);
    free(many);
}

size_t sf_many_room(const struct sf_many *many)
{
    return many->longest;
}

static bool matches(const struct sf_pattern *pattern, const uint8_t *data)
{
    for (size_t i = 0; i < pattern->length; i++) {
        if (((data[i] ^ pattern->value[i]) & pattern->mask[i]) != 0) {
            return false;
        }
    }
    return true;
}

/* Write the matches around the atom at AT. */
static size_t compare(const struct sf_many *many, const uint8_t *data, size_t len,
                      size_t start, size_t end, size_t at, uint32_t hash,
                      uint64_t *places, uint32_t *numbers)
{
    size_t count = 0;

    for (uint32_t i = many->starts[hash]; i < many->starts[hash + 1]; i++) {
        const struct entry *entry = &many->entries[i];
        const struct sf_pattern *pattern = &many->patterns[entry->number];
        const size_t place = at - entry->offset;
        if (entry->offset <= at && place >= start && place < end &&
            pattern->length <= len - place && matches(pattern, data + place)) {
            places[count] = place;
            numbers[count++] = entry->number;
        }
    }
    return count;
}

size_t sf_many_find(const struct sf_many *many, const uint8_t *data, size_t len,
                    size_t start, size_t end, uint64_t *places, uint32_t *numbers,
                    size_t cap, size_t *next)
{
    const struct hashing hashing = hashing_of(many);
    const uint64_t *map = many->map;
    const size_t stride = many->stride;
    const size_t stop = len < many->atom ? 0 : len - many->atom + 1;
    size_t count = 0;

    for (size_t at = (*next + stride - 1) / stride * stride; at < stop; at += stride) {
        const uint32_t hash = hash_at(hashing, data + at, len - at);
        if ((map[hash / 64] >> hash % 64 & 1) == 0) {
            continue;
        }
        if (many->longest > cap - count) {
            *next = at;
            return count;
        }
        count += compare(many, data, len, start, end, at, hash, places + count,
                         numbers + count);
    }
    *next = len;
    return count;
}

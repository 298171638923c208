/* sf_scan: the same records for every cut, errors at their place, deltas by the rules.
 */
#include "sf_scan.h"
#include "wire.h"

#define PAGE 512u
#define START 1000u

static char long_name[256];

static struct sf_scan *new_scan(void)
{
    const struct sf_scan_block blocks[] = {
        {"pc.ram", 4 * PAGE, 6, 0},
        {long_name, 2 * PAGE, 255, 0},
        {"", PAGE, 0, 0},
        {"tiny", PAGE - 1, 4, 0},
    };
    struct sf_scan *scan = NULL;
    struct sf_err err;

    CHECK_OK(sf_scan_new(PAGE, blocks, 4, &scan, &err), &err);
    return scan;
}

/* What a scan says, in a form to compare: all records with their data, then the end. */
struct told {
    struct wire wire;
    struct sf_err err;
    enum sf_status status;
    size_t consumed;
    bool done;
};

static void tell_record(struct wire *wire, const struct sf_record *record)
{
    wire_u64(wire, record->kind);
    wire_u64(wire, record->block);
    wire_u64(wire, record->page);
    wire_u64(wire, record->offset);
    wire_u64(wire, record->length);
    wire_bytes(wire, record->data, record->length);
}

/* Feed one piece, which lies in memory of exactly its length, CAP records at a time. */
static void feed_piece(struct sf_scan *scan, const uint8_t *bytes, size_t len,
                       size_t cap, struct told *told)
{
    struct sf_record records[16];
    uint8_t *piece = grab(len);
    size_t at = 0;

    memcpy(piece, bytes, len);
    while (at < len && !told->done && told->status == SF_OK) {
        size_t used = 0;
        size_t nrec = 0;
        told->status = sf_scan_feed(scan, piece + at, len - at, records, cap, &used,
                                    &nrec, &told->done, &told->err);
        if (told->status == SF_OK) {
            CHECK(nrec <= cap);
            CHECK(used <= len - at);
            CHECK(used != 0);
            for (size_t i = 0; i < nrec; i++) {
                tell_record(&told->wire, &records[i]);
            }
            at += used;
            told->consumed += used;
        }
    }
    free(piece);
}

/* Scan LEN bytes cut at the N places of CUTS, in ascending order. */
static struct told scan_cut(const uint8_t *bytes, size_t len, const size_t *cuts,
                            size_t n, size_t cap)
{
    struct sf_scan *scan = new_scan();
    struct told told = {.status = SF_OK};
    size_t at = 0;

    sf_scan_begin(scan, START);
    for (size_t i = 0; i <= n; i++) {
        const size_t end = i < n ? cuts[i] : len;
        feed_piece(scan, bytes + at, end - at, cap, &told);
        at = end;
    }
    sf_scan_free(scan);
    return told;
}

static void check_same(const struct told *left, const struct told *right)
{
    CHECK_EQ(left->wire.len, right->wire.len);
    CHECK(left->wire.len == 0 ||
          memcmp(left->wire.data, right->wire.data, left->wire.len) == 0);
    CHECK_EQ(left->status, right->status);
    CHECK_EQ(left->done, right->done);
    if (left->status != SF_OK) {
        CHECK_EQ(left->err.offset, right->err.offset);
        CHECK(strcmp(left->err.message, right->err.message) == 0);
    } else {
        CHECK_EQ(left->consumed, right->consumed);
    }
}

/* Every cut in two, single bytes, and random cuts tell the same. */
static void check_cuts(const struct wire *wire, const struct told *whole)
{
    struct dice dice = {5};
    size_t *cuts = grab(wire->len * sizeof *cuts);

    for (size_t cut = 0; cut <= wire->len; cut++) {
        struct told told = scan_cut(wire->data, wire->len, &cut, 1, 16);
        check_same(whole, &told);
        wire_free(&told.wire);
    }
    for (unsigned round = 0; round < 200; round++) {
        size_t n = 0;
        for (size_t at = 0; at < wire->len; at++) {
            if (round == 0 || below(&dice, 1 + round * round) == 0) {
                cuts[n++] = at;
            }
        }
        struct told told = scan_cut(wire->data, wire->len, cuts, n, 1 + round % 16);
        check_same(whole, &told);
        wire_free(&told.wire);
    }
    free(cuts);
}

/* Everything that a stream can hold, ended by junk that must not be touched. */
static void write_all_kinds(struct wire *wire, size_t *payload)
{
    uint8_t page[PAGE];
    struct dice dice = {6};

    fill_random(&dice, page, PAGE);
    wire_page(wire, 0, "pc.ram", page, PAGE);
    wire_zero(wire, PAGE, NULL);
    wire_u64(wire, WIRE_HOOK);
    wire_delta(wire, 2 * PAGE, NULL, page, 0);
    wire_zero(wire, PAGE, long_name);
    wire_delta(wire, 0, long_name, page, PAGE);
    wire_u64(wire, WIRE_HOOK | WIRE_CONTINUE);
    wire_page(wire, PAGE, NULL, page, PAGE);
    wire_zero(wire, 0, "");
    wire_page(wire, 3 * PAGE, "pc.ram", page, PAGE);
    wire_end(wire);
    *payload = wire->len;
    wire_bytes(wire, page, 20);
}

static void test_every_cut(void)
{
    struct wire wire = {0};
    size_t payload;

    write_all_kinds(&wire, &payload);
    struct told whole = scan_cut(wire.data, wire.len, NULL, 0, 16);
    CHECK_EQ(whole.status, SF_OK);
    CHECK(whole.done);
    CHECK_EQ(whole.consumed, payload);
    CHECK_EQ(whole.wire.len, 8 * 5 * 8 + 3 * PAGE + PAGE);
    check_cuts(&wire, &whole);
    wire_free(&whole.wire);
    wire_free(&wire);
}

/* Every beginning of a stream is fine as far as it goes. */
static void test_every_truncation(void)
{
    struct wire wire = {0};
    size_t payload;

    write_all_kinds(&wire, &payload);
    for (size_t len = 0; len < payload; len++) {
        struct told told = scan_cut(wire.data, len, NULL, 0, 16);
        CHECK_EQ(told.status, SF_OK);
        CHECK(!told.done);
        CHECK_EQ(told.consumed, len);
        wire_free(&told.wire);
    }
    wire_free(&wire);
}

static void test_records_say_what_and_where(void)
{
    struct wire wire = {0};
    struct sf_record records[16];
    struct sf_scan_counts counts;
    struct sf_scan *scan = new_scan();
    struct sf_err err;
    size_t payload;
    size_t used = 0;
    size_t nrec = 0;
    bool done = false;

    write_all_kinds(&wire, &payload);
    sf_scan_begin(scan, START);
    CHECK_OK(
        sf_scan_feed(scan, wire.data, wire.len, records, 16, &used, &nrec, &done, &err),
        &err);
    CHECK_EQ(nrec, 8);
    const uint64_t pages[] = {0, 1, 2, 1, 0, 1, 0, 3};
    const uint32_t blocks[] = {0, 0, 0, 1, 1, 1, 2, 0};
    for (unsigned i = 0; i < 8; i++) {
        CHECK_EQ(records[i].page, pages[i]);
        CHECK_EQ(records[i].block, blocks[i]);
        if (records[i].kind != SF_RECORD_ZERO) {
            CHECK(records[i].data == wire.data + (records[i].offset - START));
        }
    }
    CHECK_EQ(records[0].offset, START + 8 + 7);
    CHECK_EQ(records[1].offset, START + 8 + 7 + PAGE);
    sf_scan_get_counts(scan, &counts);
    CHECK_EQ(counts.pages, 3);
    CHECK_EQ(counts.zeros, 3);
    CHECK_EQ(counts.deltas, 2);
    sf_scan_free(scan);
    wire_free(&wire);
}

/* 0x200 must not be an address, so pages are larger here. */
static void test_flush_words_are_counted(void)
{
    const struct sf_scan_block block = {"b", 1 << 20, 1, 0};
    struct sf_scan *scan = NULL;
    struct sf_scan_counts counts;
    struct sf_record record;
    struct sf_err err;
    struct wire wire = {0};
    size_t used = 0;
    size_t nrec = 0;
    bool done = false;

    CHECK_OK(sf_scan_new(1024, &block, 1, &scan, &err), &err);
    wire_u64(&wire, WIRE_FLUSH);
    wire_end(&wire);
    sf_scan_begin(scan, 0);
    for (size_t at = 0; at < wire.len; at += used) {
        CHECK_OK(sf_scan_feed(scan, wire.data + at, 1, &record, 1, &used, &nrec, &done,
                              &err),
                 &err);
        CHECK_EQ(nrec, 0);
    }
    CHECK(done);
    sf_scan_get_counts(scan, &counts);
    CHECK_EQ(counts.flushes, 1);
    sf_scan_free(scan);
    wire_free(&wire);
}

static void test_named_pages_are_noted(void)
{
    uint8_t named[4] = {0};
    uint8_t *const bitmaps[] = {&named[0], &named[1], &named[2], &named[3]};
    struct wire wire = {0};
    struct sf_scan *scan = new_scan();
    struct told told = {.status = SF_OK};

    wire_zero(&wire, 0, "pc.ram");
    wire_zero(&wire, 2 * PAGE, NULL);
    wire_zero(&wire, PAGE, long_name);
    wire_end(&wire);
    sf_scan_note_named(scan, bitmaps);
    sf_scan_begin(scan, START);
    feed_piece(scan, wire.data, wire.len, 16, &told);
    CHECK(told.done);
    CHECK_EQ(named[0], 5);
    CHECK_EQ(named[1], 2);
    CHECK_EQ(named[2] | named[3], 0);
    wire_free(&wire);
    wire_free(&told.wire);
    sf_scan_free(scan);
}

static void test_the_block_survives_sections(void)
{
    struct wire first = {0};
    struct wire second = {0};
    struct sf_scan *scan = new_scan();
    struct told told = {.status = SF_OK};

    wire_zero(&first, 0, long_name);
    wire_end(&first);
    wire_zero(&second, PAGE, NULL);
    wire_end(&second);
    sf_scan_begin(scan, 0);
    feed_piece(scan, first.data, first.len, 16, &told);
    CHECK(told.done);
    told.done = false;
    sf_scan_begin(scan, 5000);
    CHECK_EQ(sf_scan_offset(scan), 5000);
    feed_piece(scan, second.data, second.len, 16, &told);
    CHECK(told.done);
    CHECK_EQ(sf_scan_offset(scan), 5000 + second.len);
    CHECK_EQ(told.wire.len, 2 * 5 * 8);
    CHECK_EQ(sf_be64(told.wire.data + 5 * 8 + 8), 1);
    CHECK_EQ(sf_be64(told.wire.data + 5 * 8 + 24), 5000);
    wire_free(&told.wire);
    wire_free(&first);
    wire_free(&second);
    sf_scan_free(scan);
}

/* --- what is refused --- */

static void check_refused(struct wire *wire, enum sf_status status, uint64_t offset)
{
    struct wire good = {0};

    /* Alone, and after two good records, which must come out nevertheless. */
    for (unsigned behind = 0; behind < 2; behind++) {
        struct told told = scan_cut(wire->data, wire->len, NULL, 0, 16);
        CHECK_EQ(told.status, status);
        CHECK_EQ(told.err.offset, START + good.len + offset);
        CHECK_EQ(told.wire.len, behind * 2 * 5 * 8);
        CHECK_EQ(told.consumed, good.len);
        check_cuts(wire, &told);
        wire_free(&told.wire);
        if (!behind) {
            wire_zero(&good, 0, "pc.ram");
            wire_zero(&good, PAGE, "pc.ram");
            struct wire both = {0};
            wire_bytes(&both, good.data, good.len);
            wire_bytes(&both, wire->data, wire->len);
            wire_free(wire);
            *wire = both;
        }
    }
    wire_free(&good);
    wire_free(wire);
}

static void test_refusals(void)
{
    struct wire wire = {0};
    uint8_t delta[PAGE + 1] = {0};

    static const unsigned flags[] = {0,    0x01, 0x04, 0x0a, 0x12,
                                     0x18, 0x48, 0xc0, 0x20, 0x1ff};
    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) {
        wire_u64(&wire, flags[i]);
        check_refused(&wire, SF_E_FORMAT, 0);
    }
    wire_head(&wire, 0, WIRE_COMPRESS, "pc.ram");
    check_refused(&wire, SF_E_UNSUPPORTED, 0);
    wire_zero(&wire, 0, "pc.rom");
    check_refused(&wire, SF_E_FORMAT, 0);
    wire_zero(&wire, 4 * PAGE, "pc.ram");
    check_refused(&wire, SF_E_FORMAT, 0);
    wire_zero(&wire, UINT64_MAX - PAGE + 1, "pc.ram");
    check_refused(&wire, SF_E_FORMAT, 0);
    wire_zero(&wire, 0, "tiny");
    check_refused(&wire, SF_E_FORMAT, 0);
    wire_head(&wire, 0, WIRE_ZERO, "pc.ram");
    wire_byte(&wire, 1);
    check_refused(&wire, SF_E_FORMAT, 8 + 7);
    wire_head(&wire, 0, WIRE_XBZRLE, "pc.ram");
    wire_bytes(&wire, "\2\0\0", 3);
    check_refused(&wire, SF_E_FORMAT, 8 + 7);
    wire_delta(&wire, 0, "pc.ram", delta, PAGE + 1);
    check_refused(&wire, SF_E_FORMAT, 8 + 7 + 1);
}

static void test_nothing_to_continue(void)
{
    struct wire wire = {0};

    wire_zero(&wire, 0, NULL);
    struct told told = scan_cut(wire.data, wire.len, NULL, 0, 16);
    CHECK_EQ(told.status, SF_E_FORMAT);
    CHECK_EQ(told.err.offset, START);
    check_cuts(&wire, &told);
    wire_free(&wire);
}

static void test_makers_arguments(void)
{
    const struct sf_scan_block block = {long_name, PAGE, 256, 0};
    const uint32_t sizes[] = {0, 1, 128, 4095, 131072};
    struct sf_scan *scan = NULL;
    struct sf_err err;

    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK_EQ(sf_scan_new(sizes[i], NULL, 0, &scan, &err), SF_E_RANGE);
    }
    CHECK_EQ(sf_scan_new(4096, &block, 1, &scan, &err), SF_E_RANGE);
    CHECK(scan == NULL);
    CHECK_OK(sf_scan_new(4096, NULL, 0, &scan, &err), &err);
    sf_scan_free(scan);
    sf_scan_free(NULL);
}

static void test_no_room_no_record(void)
{
    struct sf_scan *scan = new_scan();
    struct wire wire = {0};
    struct sf_err err;
    size_t used = 9;
    size_t nrec = 9;
    bool done = true;

    wire_zero(&wire, 0, "pc.ram");
    sf_scan_begin(scan, 0);
    for (size_t at = 0; at < 2; at++) {
        CHECK_OK(sf_scan_feed(scan, wire.data, 5, NULL, 0, &used, &nrec, &done, &err),
                 &err);
        CHECK_EQ(used, 0);
        CHECK_EQ(nrec, 0);
        CHECK(!done);
        if (at == 0) {
            struct sf_record record;
            CHECK_OK(
                sf_scan_feed(scan, wire.data, 5, &record, 1, &used, &nrec, &done, &err),
                &err);
            CHECK_EQ(used, 5);
        }
    }
    sf_scan_free(scan);
    wire_free(&wire);
}

/* --- deltas --- */

static void check_delta(const char *delta, uint32_t length, bool good)
{
    uint8_t page[PAGE];
    uint8_t copy[PAGE];
    struct sf_err err = {0};

    memset(page, 0x55, sizeof page);
    memcpy(copy, page, sizeof page);
    const enum sf_status status =
        sf_xbzrle_apply(page, PAGE, (const uint8_t *)delta, length, 77, &err);
    CHECK_EQ(status, good ? SF_OK : SF_E_FORMAT);
    if (!good) {
        CHECK_EQ(err.offset, 77);
        CHECK(memcmp(page, copy, sizeof page) == 0);
    }
}

static void test_delta_rules(void)
{
    uint8_t page[4096] = {0};
    uint8_t whole[3 + PAGE];
    struct sf_err err;

    /* The worked example of the format's description. */
    CHECK_OK(
        sf_xbzrle_apply(page, 4096, (const uint8_t *)"\xec\x08\x01\xcd", 4, 0, &err),
        &err);
    CHECK_EQ(page[1132], 0xcd);
    page[1132] = 0;
    CHECK(page[0] == 0 && memcmp(page, page + 1, 4095) == 0);

    check_delta("", 0, true);
    check_delta("\0\1a", 3, true);
    check_delta("\0\1a\1\1b", 6, true);
    check_delta("\xff\x03\1a", 4, true);     /* the last byte */
    check_delta("\x80\0\1a", 4, true);       /* a long zero */
    check_delta("\0\1a\0\1b", 6, false);     /* nothing kept in the middle */
    check_delta("\0\1a\x80\0\1b", 7, false); /* the same in two bytes */
    check_delta("\0\0", 2, false);           /* nothing changed */
    check_delta("\1", 1, false);             /* no change follows */
    check_delta("\0\2a", 3, false);          /* data cut short */
    check_delta("\x80\x04\1a", 4, false);    /* one too far */
    check_delta("\xff\x03\2ab", 5, false);   /* runs past the end */
    check_delta("\x80", 1, false);           /* half a length */
    check_delta("\xff\xff\1a", 4, false);    /* a length of three bytes */
    check_delta("\0\1a\1", 4, false);        /* a tail */
    memset(whole, 'w', sizeof whole);
    whole[0] = 0;
    whole[1] = 0x80;
    whole[2] = PAGE >> 7;
    check_delta((const char *)whole, sizeof whole, true);
    check_delta((const char *)whole, sizeof whole - 1, false);
}

static enum sf_status make_scan(void *context, struct sf_err *err)
{
    const struct sf_scan_block block = {"a", PAGE, 1, 0};
    struct sf_scan *scan = NULL;
    const enum sf_status status = sf_scan_new(PAGE, &block, 1, &scan, err);

    (void)context;
    CHECK((status == SF_OK) == (scan != NULL));
    sf_scan_free(scan);
    return status;
}

int main(void)
{
    memset(long_name, 'x', 255);
    test_every_cut();
    test_every_truncation();
    test_records_say_what_and_where();
    test_flush_words_are_counted();
    test_named_pages_are_noted();
    test_the_block_survives_sections();
    test_refusals();
    test_nothing_to_continue();
    test_makers_arguments();
    test_no_room_no_record();
    test_delta_rules();
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, make_scan, NULL);
    return 0;
}

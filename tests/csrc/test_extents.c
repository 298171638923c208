/* sf_extents: a view shows the same bytes as a slow copy of them, whatever is asked. */
#include "check.h"
#include "sf_buffer.h"
#include "sf_map.h"

#define FILE_LENGTH (512u * 1024)
#define VIEW_LENGTH (2u * 1024 * 1024)
#define COUNT 400u
#define FILES 3u

static struct sf_file *source_of(uint64_t seed, unsigned flags, uint8_t **content)
{
    struct dice dice = {seed};
    struct sf_err err;
    const int fd = scratch_fd(FILE_LENGTH);
    struct sf_file *file = adopt(fd, SF_OPEN_WRITE);

    *content = grab(FILE_LENGTH);
    fill_random(&dice, *content, FILE_LENGTH);
    CHECK_OK(sf_file_write(file, *content, FILE_LENGTH, 0, &err), &err);
    sf_file_free(file);
    file = adopt(fd, flags);
    close(fd);
    return file;
}

static struct sf_file *source(unsigned flags, uint8_t **content)
{
    return source_of(21, flags, content);
}

/* Random extents of several files, and what they show. */
static size_t arrange(struct dice *dice, unsigned unit, uint8_t *const *contents,
                      unsigned files, struct sf_extent *extents, uint8_t *model)
{
    uint64_t at = 0;
    size_t count = 0;

    memset(model, 0, VIEW_LENGTH);
    while (count < COUNT) {
        const uint64_t len = unit * (1 + below(dice, 8192 / unit));
        at += unit * below(dice, 3);
        if (at + len > VIEW_LENGTH) {
            break;
        }
        const uint64_t place = sf_align_down(below(dice, FILE_LENGTH - len + 1), unit);
        const uint32_t number = (uint32_t)below(dice, files);
        extents[count++] = (struct sf_extent){at, len, place, number};
        memcpy(model + at, contents[number] + place, len);
        at += len;
    }
    return count;
}

static void test_shows_what_it_says(unsigned flags, unsigned unit, unsigned files)
{
    struct dice dice = {22 + unit};
    struct sf_err err;
    uint8_t *contents[FILES];
    struct sf_file *file = source(flags, &contents[0]);
    struct sf_file *others[FILES - 1];
    struct sf_extent extents[COUNT];
    uint8_t *model = grab(VIEW_LENGTH);
    uint8_t *buf = sf_buffer_alloc(VIEW_LENGTH + 4096);
    size_t got = 0;

    for (unsigned i = 1; i < files; i++) {
        others[i - 1] = source_of(21 + i, i % 2 ? flags : 0, &contents[i]);
    }
    const size_t count = arrange(&dice, unit, contents, files, extents, model);
    CHECK_OK(
        sf_file_arrange(file, others, files - 1, extents, count, VIEW_LENGTH, &err),
        &err);
    for (unsigned i = 1; i < files; i++) {
        sf_file_free(others[i - 1]); /* the view holds them */
    }
    CHECK_EQ(sf_file_length(file), VIEW_LENGTH);
    for (unsigned i = 0; i < 200; i++) {
        const uint64_t offset =
            sf_align_down(below(&dice, VIEW_LENGTH + 1), i % 3 ? 1 : 4096);
        const size_t len = (size_t)below(&dice, i % 2 ? 9000 : VIEW_LENGTH);
        const size_t there = (size_t)sf_min(len, VIEW_LENGTH - offset);
        if (i % 4 == 0) {
            fault_stutter();
        }
        memset(buf, 0xa5, len);
        CHECK_OK(sf_file_read_some(file, buf, len, offset, &got, &err), &err);
        CHECK_EQ(got, there);
        CHECK(memcmp(buf, model + offset, got) == 0);
        fault_off();
    }
    CHECK_OK(sf_file_read_some(file, buf, 10, UINT64_MAX - 4, &got, &err), &err);
    CHECK_EQ(got, 0);

    uint64_t at = 0;
    for (uint64_t offset = 0;;) {
        uint64_t start, len;
        CHECK_OK(sf_file_next_extent(file, offset, &start, &len, &err), &err);
        if (len == 0) {
            break;
        }
        CHECK(start >= at);
        for (; at < start; at++) {
            CHECK_EQ(model[at], 0);
        }
        at = offset = start + len;
    }
    CHECK_EQ(at, extents[count - 1].offset + extents[count - 1].len);
    CHECK_EQ(sf_file_write(file, buf, 1, 0, &err), SF_E_RANGE);
    sf_buffer_free(buf, VIEW_LENGTH + 4096);
    sf_file_free(file);
    free(model);
    for (unsigned i = 0; i < files; i++) {
        free(contents[i]);
    }
}

static void test_refuses_what_cannot_be(void)
{
    struct sf_err err;
    uint8_t *content;
    struct sf_file *file = source(0, &content);
    static const struct sf_extent bad[][2] = {
        {{0, 10, 0, 0}, {5, 10, 20, 0}},              /* overlap */
        {{20, 10, 0, 0}, {5, 10, 20, 0}},             /* order */
        {{0, 0, 0, 0}, {5, 10, 20, 0}},               /* empty */
        {{0, 10, 0, 0}, {90, 11, 20, 0}},             /* out of the view */
        {{0, 10, 0, 0}, {UINT64_MAX, 2, 20, 0}},      /* wraps */
        {{0, 10, FILE_LENGTH - 9, 0}, {20, 1, 0, 0}}, /* out of the file */
        {{0, 10, 0, 1}, {20, 1, 0, 0}}                /* no such file */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ(sf_file_arrange(file, NULL, 0, bad[i], 2, 100, &err), SF_E_RANGE);
    }
    CHECK_EQ(sf_file_arrange(file, NULL, 0, NULL, 0, UINT64_MAX, &err), SF_E_RANGE);
    uint8_t *second;
    struct sf_file *closed = source(0, &second);
    sf_file_close(closed);
    CHECK_EQ(sf_file_arrange(file, &closed, 1, NULL, 0, 100, &err), SF_E_CLOSED);
    CHECK_EQ(sf_file_arrange(file, &closed, SF_MAX_OTHERS + 1, NULL, 0, 100, &err),
             SF_E_RANGE);
    sf_file_free(closed);
    free(second);
    CHECK_EQ(sf_file_length(file), FILE_LENGTH);
    CHECK_OK(sf_file_arrange(file, NULL, 0, NULL, 0, 100, &err), &err);
    CHECK_EQ(sf_file_arrange(file, NULL, 0, NULL, 0, 100, &err), SF_E_RANGE);
    sf_file_free(file);
    free(content);
}

static void test_maps_one_stretch(void)
{
    struct sf_err err;
    uint8_t *content;
    struct sf_file *file = source(0, &content);
    const struct sf_extent one = {0, 10000, 5001, 0};
    struct sf_map *map;
    uint64_t start;

    CHECK_OK(sf_file_arrange(file, NULL, 0, &one, 1, 10000, &err), &err);
    CHECK(sf_file_start(file, &start));
    CHECK_EQ(start, 5001);
    CHECK_OK(sf_map_new(file, &map, &err), &err);
    sf_file_free(file);
    CHECK(memcmp(sf_map_data(map), content + 5001, 10000) == 0);
    sf_map_free(map);

    free(content);
    file = source(0, &content);
    CHECK_OK(sf_file_arrange(file, NULL, 0, &one, 1, 10001, &err), &err);
    CHECK(!sf_file_start(file, &start));
    CHECK_EQ(sf_map_new(file, &map, &err), SF_E_RANGE);
    sf_file_free(file);
    free(content);
}

/* A file that becomes shorter under a view is no zeros. */
static void test_a_shorter_file(void)
{
    struct sf_err err;
    const int fd = scratch_fd(FILE_LENGTH);
    struct sf_file *file = adopt(fd, 0);
    const struct sf_extent one = {0, 8192, 4096, 0};
    uint8_t buf[8192];

    CHECK_OK(sf_file_arrange(file, NULL, 0, &one, 1, 8192, &err), &err);
    CHECK_EQ(ftruncate(fd, 8192), 0);
    CHECK_EQ(sf_file_read(file, buf, sizeof buf, 0, &err), SF_E_TRUNCATED);
    CHECK_EQ(err.offset, 8192);
    close(fd);
    sf_file_free(file);
}

int main(void)
{
    static const unsigned modes[] = {0, SF_OPEN_DIRECT, SF_OPEN_URING,
                                     SF_OPEN_DIRECT | SF_OPEN_URING};

    for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++) {
        test_shows_what_it_says(modes[i], 1, 1);
        test_shows_what_it_says(modes[i], 4096, 1);
        test_shows_what_it_says(modes[i], 1, FILES);
        test_shows_what_it_says(modes[i], 4096, FILES);
    }
    test_refuses_what_cannot_be();
    test_maps_one_stretch();
    test_a_shorter_file();
    return 0;
}

/* Closing a file that is in use: what is under way ends well, what comes later is told,
 * and the descriptors go when the last use ends. */
#include "guest.h"
#include "sf_append.h"
#include "sf_emit.h"
#include "sf_fill.h"
#include "sf_index.h"
#include "sf_map.h"
#include "sf_move.h"
#include "sf_queue.h"

#include <stdatomic.h>

enum { READERS = 4, LENGTH = 1 << 20 };
#define WINDOW (512u * 1024)

struct scene {
    struct sf_file *file;
    const uint8_t *model;
    uint64_t seed;
    bool holding; /* the whole time */
    atomic_uint *started;
    unsigned reads;
};

static void *read_on(void *argument)
{
    struct scene *scene = argument;
    struct dice dice = {scene->seed};
    uint8_t *buf = grab(LENGTH);
    struct sf_err err = {0};
    enum sf_status status = SF_OK;

    atomic_fetch_add(scene->started, 1);
    for (unsigned i = 0; status == SF_OK && (i < 300 || !scene->holding); i++) {
        const uint64_t offset = below(&dice, LENGTH);
        const size_t len = (size_t)below(&dice, LENGTH - offset + 1);
        const struct sf_piece piece = {buf, len, offset};
        if (scene->holding) {
            status = sf_file_read_pieces(scene->file, &piece, 1, &err);
        } else {
            status = sf_file_read(scene->file, buf, len, offset, &err);
        }
        if (status == SF_OK) {
            CHECK(memcmp(buf, scene->model + offset, len) == 0);
            scene->reads++;
        }
    }
    CHECK_EQ(status, scene->holding ? SF_OK : SF_E_CLOSED);
    if (scene->holding) {
        sf_file_release(scene->file);
    }
    free(buf);
    return NULL;
}

/* HOLDING: the threads hold the file, and its owner is done with it at once. */
static void test_readers(unsigned flags, bool holding)
{
    const struct leftovers before = look_around();
    struct dice dice = {7};
    uint8_t *model = grab(LENGTH);
    struct sf_err err;
    struct sf_file *file = scratch_file(0, flags);
    struct scene scenes[READERS];
    pthread_t threads[READERS];
    atomic_uint started;

    atomic_init(&started, 0);
    fill_random(&dice, model, LENGTH);
    CHECK_OK(sf_file_write(file, model, LENGTH, 0, &err), &err);
    for (unsigned i = 0; i < READERS; i++) {
        scenes[i] = (struct scene){file, model, i + 1, holding, &started, 0};
        if (holding) {
            CHECK_OK(sf_file_acquire(file, &err), &err);
        }
        CHECK(pthread_create(&threads[i], NULL, read_on, &scenes[i]) == 0);
    }
    while (atomic_load(&started) < READERS) {
        nap(1);
    }
    nap(5);
    sf_file_close(file);
    if (holding) {
        CHECK_EQ(sf_file_acquire(file, &err), SF_E_CLOSED);
        sf_file_free(file);
    }
    for (unsigned i = 0; i < READERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(!holding || scenes[i].reads == 300);
    }
    if (!holding) {
        sf_file_close(file);
        sf_file_free(file);
    }
    free(model);
    check_clean(&before);
}

static void test_every_door_is_shut(void)
{
    const struct leftovers before = look_around();
    struct sf_file *file = scratch_file(4096, 0);
    struct sf_pages pages = {(uint8_t[8]){1}, 1, 0, 512, 0};
    const struct sf_emit_block block = {"ram", pages, 3, 0};
    struct sf_move move = {file, &pages, NULL, NULL, NULL, NULL, NULL, 1, 1, WINDOW};
    struct sf_file *other = scratch_file(4096, 0);
    struct sf_index *index = NULL;
    struct sf_job *job = NULL;
    struct sf_ring *ring = NULL;
    struct sf_append *append = NULL;
    struct sf_queue *queue = NULL;
    struct sf_emit *emit = NULL;
    struct sf_map *map = NULL;
    struct sf_err err;
    uint8_t buf[512] = {0};
    uint64_t start;
    uint64_t len;

    CHECK_OK(sf_index_new(1, 512, "ram", 3, &index, &err), &err);
    CHECK_OK(sf_emit_new(file, &block, 1, NULL, NULL, &emit, &err), &err);
    sf_file_close(file);
    CHECK_EQ(sf_file_read(file, buf, 1, 0, &err), SF_E_CLOSED);
    CHECK_EQ(sf_file_write(file, buf, 1, 0, &err), SF_E_CLOSED);
    CHECK_EQ(sf_file_sync(file, &err), SF_E_CLOSED);
    CHECK_EQ(sf_file_next_extent(file, 0, &start, &len, &err), SF_E_CLOSED);
    CHECK_EQ(sf_pages_read(file, &pages, 0, 1, buf, &err), SF_E_CLOSED);
    CHECK_EQ(sf_index_read(index, file, 0, 1, buf, &err), SF_E_CLOSED);
    CHECK_EQ(sf_map_new(file, &map, &err), SF_E_CLOSED);
    CHECK_EQ(sf_read_start(file, 0, 9, WINDOW, 1, &ring, &err), SF_E_CLOSED);
    CHECK_EQ(sf_append_start(file, 0, WINDOW, 1, &append, &err), SF_E_CLOSED);
    CHECK_EQ(sf_queue_start(file, WINDOW, 512, 1, 1, &queue, &err), SF_E_CLOSED);
    CHECK_EQ(sf_fill_start(file, &pages, 1, WINDOW, 1, &job, &err), SF_E_CLOSED);
    CHECK_EQ(sf_move_start(&move, &job, &err), SF_E_CLOSED);
    CHECK_EQ(sf_emit_ring_start(emit, WINDOW, 1, &ring, &err), SF_E_CLOSED);
    CHECK_EQ(sf_emit_write_start(emit, other, 0, WINDOW, 1, &job, &err), SF_E_CLOSED);
    move.source = other;
    move.target = file;
    CHECK_EQ(sf_move_start(&move, &job, &err), SF_E_CLOSED);
    CHECK(map == NULL && ring == NULL && append == NULL && job == NULL);
    CHECK_EQ(sf_file_length(file), 4096);
    sf_emit_free(emit);
    sf_index_free(index);
    sf_file_free(file);
    sf_file_free(other);
    check_clean(&before);
}

static void await(struct sf_job *job)
{
    struct sf_err err;

    CHECK_EQ(sf_job_wait(job, 60000, NULL), SF_OK);
    CHECK_OK(sf_job_finish(job, &err), &err);
}

/* Both files are given up as soon as the job runs. */
static void test_jobs(unsigned flags)
{
    const struct leftovers before = look_around();
    struct dice dice = {3};
    struct guest guest;
    struct sf_pages pages[GUEST_BLOCKS];
    struct sf_pages places[GUEST_BLOCKS];
    uint64_t offsets[GUEST_BLOCKS];
    struct sf_emit_block blocks[GUEST_BLOCKS];
    struct sf_emit *emit = NULL;
    struct sf_job *job = NULL;
    struct sf_err err;

    guest_init(&guest, 4096, 1000, 13);
    guest_fill(&guest, &dice);
    const uint64_t length = guest_place(&guest, 1 << 20, places);
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        offsets[i] = places[i].offset;
    }
    for (unsigned turn = 0; turn < 3; turn++) {
        struct sf_file *source = guest_file(&guest, flags, pages);
        const int fd = scratch_fd(length);
        struct sf_file *target = adopt(fd, flags | SF_OPEN_WRITE);
        const struct sf_move move = {source, pages, target,       offsets, NULL,
                                     NULL,   NULL,  GUEST_BLOCKS, 3,       WINDOW};
        for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
            blocks[i] = (struct sf_emit_block){guest.names[i], pages[i],
                                               (uint32_t)strlen(guest.names[i]), 0};
        }
        CHECK_OK(sf_emit_new(source, blocks, GUEST_BLOCKS, NULL, NULL, &emit, &err),
                 &err);
        fault_slow(1);
        if (turn == 0) {
            CHECK_OK(sf_move_start(&move, &job, &err), &err);
        } else if (turn == 1) {
            CHECK_OK(sf_emit_write_start(emit, target, 77, WINDOW, 3, &job, &err),
                     &err);
        } else {
            CHECK_OK(sf_fill_start(target, places, GUEST_BLOCKS, WINDOW, 3, &job, &err),
                     &err);
        }
        sf_file_free(source);
        sf_file_free(target);
        await(job);
        fault_off();
        sf_emit_free(emit);
        if (turn == 0) {
            target = adopt(fd, 0);
            for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
                const size_t len = (size_t)(guest.counts[i] * guest.page_size);
                uint8_t *now = slurp(target, offsets[i], len);
                CHECK(memcmp(now, guest.content[i], len) == 0);
                free(now);
            }
            sf_file_free(target);
        }
        close(fd);
    }
    guest_free(&guest);
    check_clean(&before);
}

static void test_rings_and_writers(unsigned flags)
{
    enum { COUNT = 3 * WINDOW + 5 };
    const struct leftovers before = look_around();
    struct dice dice = {5};
    uint8_t *model = grab(COUNT);
    const int fd = scratch_fd(0);
    struct sf_file *file = adopt(fd, flags | SF_OPEN_WRITE);
    struct sf_append *append = NULL;
    struct sf_ring *ring = NULL;
    struct sf_err err;
    size_t done = 0;

    fill_random(&dice, model, COUNT);
    CHECK_OK(sf_append_start(file, 0, WINDOW, 2, &append, &err), &err);
    sf_file_free(file);
    while (done < COUNT) {
        size_t used = 0;
        CHECK_OK(sf_append_feed(append, model + done, COUNT - done, &used, &err), &err);
        done += used;
    }
    while (sf_append_flush(append, 100, &err) == SF_AGAIN) {
    }
    sf_append_finish(append);

    file = adopt(fd, flags);
    CHECK_OK(sf_read_start(file, 0, COUNT, WINDOW, 2, &ring, &err), &err);
    sf_file_free(file);
    for (done = 0;;) {
        uint8_t *data = NULL;
        size_t len = 0;
        const enum sf_status status = sf_ring_next(ring, 100, &data, &len, &err);
        if (status == SF_AGAIN) {
            continue;
        }
        CHECK_OK(status, &err);
        if (len == 0) {
            break;
        }
        CHECK(memcmp(data, model + done, len) == 0);
        done += len;
    }
    CHECK_EQ(done, COUNT);
    sf_ring_finish(ring);
    free(model);
    close(fd);
    check_clean(&before);
}

static void test_a_map_outlives_the_file(void)
{
    const struct leftovers before = look_around();
    struct sf_file *file = scratch_file(0, 0);
    const int fd = scratch_fd(5000);
    struct sf_map *map = NULL;
    struct sf_err err = {0};

    CHECK_EQ(sf_map_new(file, &map, &err), SF_E_OS);
    CHECK_EQ(err.errnum, EINVAL);
    sf_file_free(file);
    CHECK(pwrite(fd, "x", 1, 4999) == 1);
    file = adopt(fd, 0);
    CHECK_OK(sf_map_new(file, &map, &err), &err);
    sf_file_free(file);
    close(fd);
    CHECK_EQ(sf_map_data(map)[4999], 'x');
    CHECK_EQ(sf_map_data(map)[0], 0);
    sf_map_free(map);
    sf_map_free(NULL);
    check_clean(&before);
}

int main(void)
{
    static const unsigned flags[] = {0, SF_OPEN_DIRECT, SF_OPEN_DIRECT | SF_OPEN_URING};

    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) {
        test_readers(flags[i], false);
        test_readers(flags[i], true);
        test_jobs(flags[i]);
        test_rings_and_writers(flags[i]);
    }
    test_every_door_is_shut();
    test_a_map_outlives_the_file();
    return 0;
}

/* sf_uring: threads share a pool; what cannot be moved is told by its length. */
#include "check.h"
#include "sf_uring.h"

enum { CHUNK = 4096, THREADS = 4, ROUNDS = 50 };

struct scene {
    struct sf_uring_pool *pool;
    int fd;
    unsigned number;
};

static void fill_chunks(struct sf_chunk *chunks, uint8_t *buf, int fd, uint64_t first)
{
    for (unsigned i = 0; i < SF_URING_DEPTH; i++) {
        chunks[i] = (struct sf_chunk){
            buf + (size_t)i * CHUNK, (first + i) * (uint64_t)CHUNK, CHUNK, fd, 99, 0};
    }
}

/* Each thread has its own stretch of the file. */
static void *write_and_read(void *argument)
{
    const struct scene *scene = argument;
    const size_t length = (size_t)SF_URING_DEPTH * CHUNK;
    struct dice dice = {scene->number + 1};
    struct sf_chunk chunks[SF_URING_DEPTH];
    uint8_t *from = grab(length);
    uint8_t *to = grab(length);
    const uint64_t first = scene->number * (uint64_t)SF_URING_DEPTH;

    for (unsigned round = 0; round < ROUNDS; round++) {
        const unsigned count = 1 + (unsigned)below(&dice, SF_URING_DEPTH);
        fill_random(&dice, from, length);
        fill_chunks(chunks, from, scene->fd, first);
        sf_uring_pool_move(scene->pool, true, chunks, count);
        for (unsigned i = 0; i < count; i++) {
            CHECK_EQ(chunks[i].moved, CHUNK);
        }
        fill_chunks(chunks, to, scene->fd, first);
        sf_uring_pool_move(scene->pool, false, chunks, count);
        CHECK(memcmp(from, to, (size_t)count * CHUNK) == 0);
    }
    free(from);
    free(to);
    return NULL;
}

static void test_threads(struct sf_uring_pool *pool, int fd)
{
    struct scene scenes[THREADS];
    pthread_t threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        scenes[i] = (struct scene){pool, fd, i};
        CHECK(pthread_create(&threads[i], NULL, write_and_read, &scenes[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

static void test_what_fails_moves_nothing(struct sf_uring_pool *pool, int fd)
{
    struct sf_chunk chunks[SF_URING_DEPTH];
    uint8_t *buf = grab((size_t)SF_URING_DEPTH * CHUNK);

    CHECK(ftruncate(fd, 2 * CHUNK + 100) == 0);
    fill_chunks(chunks, buf, fd, 0);
    chunks[1].fd = -1;
    sf_uring_pool_move(pool, false, chunks, 4);
    CHECK_EQ(chunks[0].moved, CHUNK);
    CHECK_EQ(chunks[1].moved, 0);
    CHECK_EQ(chunks[2].moved, 100);
    CHECK_EQ(chunks[3].moved, 0);
    free(buf);
}

/* Move all chunks twice and tell how many of the first time were moved. */
static unsigned move_and_count(struct sf_uring_pool *pool, int fd, bool write)
{
    struct sf_chunk chunks[SF_URING_DEPTH];
    uint8_t *buf = grab((size_t)SF_URING_DEPTH * CHUNK);
    unsigned moved = 0;

    fill_chunks(chunks, buf, fd, 0);
    sf_uring_pool_move(pool, write, chunks, SF_URING_DEPTH);
    for (unsigned i = 0; i < SF_URING_DEPTH; i++) {
        CHECK(chunks[i].moved == 0 || chunks[i].moved == CHUNK);
        moved += chunks[i].moved != 0;
    }
    CHECK(fault_enters() < 10 * SF_URING_DEPTH);
    fault_off();
    /* Nothing that was taken back is left in the ring. */
    fill_chunks(chunks, buf, fd, 0);
    sf_uring_pool_move(pool, write, chunks, SF_URING_DEPTH);
    for (unsigned i = 0; i < SF_URING_DEPTH; i++) {
        CHECK_EQ(chunks[i].moved, CHUNK);
    }
    free(buf);
    return moved;
}

/* The kernel may lack memory or have a full queue for ever, may fail outright, and may
 * fail after it took some: the call ends, and soon. */
static void test_a_kernel_that_refuses(struct sf_uring_pool *pool, int fd)
{
    static const int errors[] = {EAGAIN, EBUSY, EINTR, ENOMEM, EBADFD, ENXIO};

    CHECK(ftruncate(fd, (off_t)SF_URING_DEPTH * CHUNK) == 0);
    for (unsigned i = 0; i < sizeof errors / sizeof *errors; i++) {
        const bool write = i % 2;
        fault_at(FAULT_ENTER, 1, errors[i]);
        const unsigned moved = move_and_count(pool, fd, write);
        CHECK_EQ(moved, errors[i] == EINTR ? SF_URING_DEPTH : 0);
        if (errors[i] != EINTR) {
            fault_from(FAULT_ENTER, 1, errors[i]);
            CHECK_EQ(move_and_count(pool, fd, write), 0);
        }
        fault_short_enter();
        fault_at(FAULT_ENTER, 9, errors[i]);
        CHECK(move_and_count(pool, fd, write) >= 4);
    }
    fault_short_enter();
    CHECK_EQ(move_and_count(pool, fd, false), SF_URING_DEPTH);
    /* It took some, and then does not even wait for them. */
    fault_short_enter();
    fault_from(FAULT_ENTER, 9, EBADFD);
    CHECK(move_and_count(pool, fd, false) >= 4);
}

static enum sf_status make_pool(void *context, struct sf_err *err)
{
    struct sf_uring_pool *pool = NULL;
    const enum sf_status status = sf_uring_pool_new(&pool, err);

    (void)context;
    if (status == SF_OK) {
        sf_uring_pool_free(pool);
    }
    return status == SF_E_NOMEM ? SF_E_UNSUPPORTED : status;
}

int main(void)
{
    struct sf_uring_pool *pool = NULL;
    struct sf_err err;
    const struct leftovers before = look_around();

    sf_uring_pool_free(NULL);
    if (sf_uring_pool_new(&pool, &err) != SF_OK) {
        CHECK_EQ(err.status, SF_E_UNSUPPORTED);
        fprintf(stderr, "note: %s\n", err.message);
        return 0;
    }
    const int fd = scratch_fd(0);
    test_threads(pool, fd);
    test_what_fails_moves_nothing(pool, fd);
    test_a_kernel_that_refuses(pool, fd);
    sf_uring_pool_free(pool);
    close(fd);
    check_clean(&before);

    for (unsigned n = 1; n < 10; n++) {
        fault_at(FAULT_MEMORY, n, ENOMEM);
        const enum sf_status status = make_pool(NULL, &err);
        CHECK(status == SF_E_UNSUPPORTED || !fault_hit());
        fault_off();
        check_clean(&before);
    }
    return 0;
}

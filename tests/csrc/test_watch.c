/* sf_watch: certain bytes at a certain place, and no more hits than there is room for.
 */
#include "check.h"

#include "sf_watch.h"

#include <pthread.h>

#define CAPACITY 8u
#define THREADS 4u

static uint8_t page[512];

static struct sf_watch made(uint64_t *hits)
{
    return (struct sf_watch){(const uint8_t *)"mark", hits, 4, 12, CAPACITY, 0};
}

static void test_what_is_a_hit(void)
{
    uint64_t hits[CAPACITY] = {0};
    struct sf_watch watch = made(hits);

    memset(page, 0, sizeof page);
    sf_watch_page(NULL, page, 1);
    sf_watch_page(&watch, page, 2);
    memcpy(page + 13, "mark", 4);
    sf_watch_page(&watch, page, 3);
    memcpy(page + 12, "mark", 4);
    sf_watch_page(&watch, page, 4);
    memcpy(page + 12, "marl", 4);
    sf_watch_page(&watch, page, 5);
    CHECK_EQ(watch.count, 1);
    CHECK_EQ(hits[0], 4);
}

static void *look(void *context)
{
    struct sf_watch *watch = context;

    for (uint64_t i = 0; i < 1000; i++) {
        sf_watch_page(watch, page, 100 + i);
    }
    return NULL;
}

static void test_too_many_hits(void)
{
    uint64_t hits[CAPACITY] = {0};
    struct sf_watch watch = made(hits);
    pthread_t threads[THREADS];

    memcpy(page + 12, "mark", 4);
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, look, &watch), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_EQ(watch.count, CAPACITY);
    for (unsigned i = 0; i < CAPACITY; i++) {
        CHECK(hits[i] >= 100 && hits[i] < 1100);
    }
}

int main(void)
{
    test_what_is_a_hit();
    test_too_many_hits();
    return 0;
}

/* sf_latency: every time has its bucket, which is off by no more than 3 %. */
#include "check.h"
#include "sf_latency.h"

static unsigned bucket_of(struct sf_latency *latency, uint64_t nanoseconds)
{
    uint64_t counts[SF_LATENCY_BUCKETS];
    unsigned bucket = SF_LATENCY_BUCKETS;

    sf_latency_add(latency, nanoseconds);
    sf_latency_take(latency, counts);
    for (unsigned i = 0; i < SF_LATENCY_BUCKETS; i++) {
        CHECK(counts[i] <= 1);
        if (counts[i] == 1) {
            CHECK_EQ(bucket, SF_LATENCY_BUCKETS);
            bucket = i;
        }
    }
    CHECK(bucket < SF_LATENCY_BUCKETS);
    return bucket;
}

static void test_buckets_are_narrow(struct sf_latency *latency)
{
    for (uint64_t value = 0; value < UINT64_C(1) << 40; value += 1 + value / 50) {
        const unsigned bucket = bucket_of(latency, value);
        const uint64_t most = sf_latency_most(bucket);
        CHECK(value <= most && most - value <= value / 32);
        CHECK(bucket == 0 || sf_latency_most(bucket - 1) < value);
        CHECK_EQ(bucket_of(latency, most), bucket);
        CHECK_EQ(bucket_of(latency, most + 1), bucket + 1);
    }
}

static void test_what_takes_for_ever_is_in_the_last(struct sf_latency *latency)
{
    CHECK_EQ(bucket_of(latency, UINT64_MAX), SF_LATENCY_BUCKETS - 1);
    CHECK_EQ(bucket_of(latency, UINT64_C(1) << 42), SF_LATENCY_BUCKETS - 1);
}

static void *add_many(void *argument)
{
    for (unsigned i = 0; i < 10000; i++) {
        sf_latency_add(argument, i % 100);
    }
    return NULL;
}

static void test_threads_lose_nothing(struct sf_latency *latency)
{
    uint64_t counts[SF_LATENCY_BUCKETS];
    pthread_t threads[4];
    uint64_t total = 0;

    for (unsigned i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, add_many, latency) == 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    sf_latency_take(latency, counts);
    for (unsigned i = 0; i < SF_LATENCY_BUCKETS; i++) {
        total += counts[i];
    }
    CHECK_EQ(total, 40000);
}

static void test_the_clock_goes_on(void)
{
    const struct timespec moment = {0, 2000000};
    const uint64_t began = sf_latency_clock();

    CHECK(nanosleep(&moment, NULL) == 0);
    CHECK(sf_latency_clock() - began >= 2000000);
}

int main(void)
{
    struct sf_latency *latency = calloc(1, sizeof *latency);

    CHECK(latency != NULL);
    test_buckets_are_narrow(latency);
    test_what_takes_for_ever_is_in_the_last(latency);
    test_threads_lose_nothing(latency);
    test_the_clock_goes_on();
    free(latency);
    return 0;
}

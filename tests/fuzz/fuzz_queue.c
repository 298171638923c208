/* Windows of pages handed to writers in any order, each with bits of its own: the last
 * one for a place wins where it was settled before, and holes read as zeros.
 *
 * Input: threads, buffers, then windows. */
#include "fuzz.h"
#include "sf_queue.h"

#define PAGE 512u
#define NPAGES 16u /* a window */
#define NWINDOWS 6u
#define MOST (NWINDOWS * NPAGES * PAGE)

static struct sf_parcel *take(struct sf_queue *queue)
{
    struct sf_parcel *parcel = NULL;
    enum sf_status status;

    do {
        status = sf_queue_take(queue, 1000, &parcel, NULL);
    } while (status == SF_AGAIN);
    CHECK(status == SF_OK);
    return parcel;
}

static void fill(struct sf_parcel *parcel, struct fuzz_input *input, uint8_t *model)
{
    const uint64_t data = fuzz_take(input, 2);
    const uint64_t punch = fuzz_take(input, 2) & ~data;
    const uint8_t value = (uint8_t)fuzz_take(input, 1);

    parcel->npages = NPAGES;
    for (unsigned i = 0; i < NPAGES; i++) {
        uint8_t *page = model + parcel->offset + i * PAGE;
        if (data >> i & 1) {
            memset(parcel->buffer + i * PAGE, value, PAGE);
            memset(page, value, PAGE);
            sf_bit_set(parcel->data_bits, i);
            parcel->has_data = true;
        } else if (punch >> i & 1) {
            memset(page, 0, PAGE);
            sf_bit_set(parcel->punch_bits, i);
            parcel->has_punch = true;
        }
    }
    parcel->len = (size_t)sf_page_count(parcel->data_bits, 0, NPAGES) * PAGE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    const unsigned nthreads = 1 + (unsigned)fuzz_below(&input, 1, 4);
    const unsigned nbuffers = nthreads + 1 + (unsigned)fuzz_below(&input, 1, 4);
    struct sf_file *file = fuzz_file(MOST, 0);
    struct sf_queue *queue = NULL;
    uint8_t *model = fuzz_zeros(MOST);
    uint8_t *now = fuzz_zeros(MOST);
    uint64_t total = 0;

    CHECK(sf_queue_start(file, NPAGES * PAGE, PAGE, nbuffers, nthreads, &queue, NULL) ==
          SF_OK);
    for (unsigned step = 0; input.left != 0 && step < 200; step++) {
        const uint64_t offset = fuzz_below(&input, 1, NWINDOWS) * NPAGES * PAGE;
        while (sf_queue_settle(queue, 1000, offset, NULL) == SF_AGAIN) {
        }
        struct sf_parcel *parcel = take(queue);
        parcel->offset = offset;
        fill(parcel, &input, model);
        total += parcel->len;
        sf_queue_put(queue, parcel);
    }
    while (sf_queue_drain(queue, 1000, NULL) == SF_AGAIN) {
    }
    CHECK(sf_queue_written(queue) == total);
    CHECK(sf_file_read(file, now, MOST, 0, NULL) == SF_OK);
    CHECK(memcmp(now, model, MOST) == 0);
    sf_queue_finish(queue);
    sf_file_free(file);
    free(model);
    free(now);
    return 0;
}

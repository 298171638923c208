/* sf_many: what sf_find finds for each text alone, and no other. */
#include "check.h"
#include "sf_many.h"

enum { MAX_TEXTS = 400, MAX_LENGTH = 40, MAX_DATA = 3000, MAX_FOUND = 4000 };

struct scene {
    uint8_t bytes[MAX_TEXTS][MAX_LENGTH];
    uint8_t masks[MAX_TEXTS][MAX_LENGTH];
    struct sf_pattern texts[MAX_TEXTS];
    uint64_t found[MAX_TEXTS][MAX_FOUND];
    size_t counts[MAX_TEXTS];
};

static uint8_t some_byte(struct dice *dice, unsigned variety)
{
    static const uint8_t bytes[] = "abABxyz\0 \n\xff@`{[";
    return bytes[roll(dice) % variety];
}

static uint32_t make_texts(struct scene *scene, struct dice *dice, unsigned variety)
{
    const uint32_t count = 1 + (uint32_t)(roll(dice) % 60);
    const size_t shortest = 1 + roll(dice) % 12;

    for (uint32_t i = 0; i < count; i++) {
        const size_t length = shortest + roll(dice) % (MAX_LENGTH - shortest);
        for (size_t at = 0; at < length; at++) {
            scene->bytes[i][at] = some_byte(dice, variety);
            scene->masks[i][at] = roll(dice) % 3 == 0 ? 0xdf : 0xff;
        }
        scene->texts[i] = (struct sf_pattern){
            scene->bytes[i], scene->masks[i], i % 3 ? length : shortest, {0, 0}};
    }
    return count;
}

/* All matches, in as many calls as the room CAP makes necessary. */
static void find_all(struct scene *scene, const struct sf_many *many,
                     const uint8_t *data, size_t len, size_t start, size_t end,
                     size_t cap)
{
    uint64_t *places = malloc(cap * sizeof *places);
    uint32_t *numbers = malloc(cap * sizeof *numbers);
    size_t next = start;

    memset(scene->counts, 0, sizeof scene->counts);
    while (next < len) {
        const size_t count =
            sf_many_find(many, data, len, start, end, places, numbers, cap, &next);
        CHECK(count <= cap);
        for (size_t i = 0; i < count; i++) {
            size_t *mine = &scene->counts[numbers[i]];
            CHECK(*mine < MAX_FOUND);
            scene->found[numbers[i]][(*mine)++] = places[i];
        }
    }
    free(places);
    free(numbers);
}

static void check_each(const struct scene *scene, uint32_t count, const uint8_t *data,
                       size_t len, size_t start, size_t end)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t found[MAX_FOUND];
        size_t next, mine = 0;
        const size_t total =
            sf_find(&scene->texts[i], data, len, start, found, MAX_FOUND, &next);
        CHECK_EQ(next, len);
        for (size_t k = 0; k < total && found[k] < end; k++, mine++) {
            CHECK(mine < scene->counts[i]);
            CHECK_EQ(scene->found[i][mine], found[k]);
        }
        CHECK_EQ(mine, scene->counts[i]);
    }
}

/* The buffer is exactly as long as the data, so that a sanitizer sees a look behind it.
 */
static void test_against_one_by_one(struct scene *scene)
{
    struct dice dice = {11};
    struct sf_err err;

    for (unsigned turn = 0; turn < 1500; turn++) {
        const unsigned variety = 2 + (unsigned)(roll(&dice) % 14);
        const uint32_t count = make_texts(scene, &dice, variety);
        const size_t len = roll(&dice) % MAX_DATA;
        const size_t start = roll(&dice) % (len + 1);
        const size_t end = turn % 3 == 0 ? len : roll(&dice) % (len + 1);
        struct sf_many *many = NULL;
        uint8_t *data = grab(len + 1);

        data = realloc(data, len != 0 ? len : 1);
        for (size_t i = 0; i < len; i++) {
            data[i] = some_byte(&dice, variety);
        }
        for (unsigned k = 0; k < 5 && len > 2 * MAX_LENGTH; k++) {
            const struct sf_pattern *text = &scene->texts[roll(&dice) % count];
            memcpy(data + roll(&dice) % (len - MAX_LENGTH), text->value, text->length);
        }
        CHECK_OK(sf_many_new(scene->texts, count, &many, &err), &err);
        const size_t room = sf_many_room(many);
        find_all(scene, many, data, len, start, end, room + roll(&dice) % 50);
        check_each(scene, count, data, len, start, end);
        sf_many_free(many);
        free(data);
    }
}

/* Texts that differ in their ends alone share all other atoms. */
static void test_crowds(struct scene *scene)
{
    struct sf_many *many = NULL;
    struct sf_err err;
    uint8_t data[] = "the needle 7 and the needle 399.";

    for (unsigned i = 0; i < MAX_TEXTS; i++) {
        const int length =
            snprintf((char *)scene->bytes[i], MAX_LENGTH, "needle %u.", i);
        memset(scene->masks[i], 0xff, MAX_LENGTH);
        scene->texts[i] = (struct sf_pattern){
            scene->bytes[i], scene->masks[i], (size_t)length, {0, 0}};
    }
    CHECK_OK(sf_many_new(scene->texts, MAX_TEXTS, &many, &err), &err);
    CHECK(sf_many_room(many) < MAX_TEXTS / 4);
    find_all(scene, many, data, sizeof data - 1, 0, sizeof data, 1000);
    check_each(scene, MAX_TEXTS, data, sizeof data - 1, 0, sizeof data);
    CHECK_EQ(scene->counts[399], 1);
    sf_many_free(many);
}

static void test_what_is_no_text(struct scene *scene)
{
    struct sf_many *many = NULL;
    struct sf_err err;
    const uint8_t wild[] = {0xff, 0xf0};

    scene->texts[0] = (struct sf_pattern){scene->bytes[0], wild, 2, {0, 0}};
    CHECK_EQ(sf_many_new(scene->texts, 1, &many, &err), SF_E_RANGE);
    scene->texts[0].length = 0;
    CHECK_EQ(sf_many_new(scene->texts, 1, &many, &err), SF_E_RANGE);
    CHECK_EQ(sf_many_new(scene->texts, 0, &many, &err), SF_E_RANGE);
    CHECK(many == NULL);
    sf_many_free(NULL);
}

static enum sf_status make(void *context, struct sf_err *err)
{
    struct sf_many *many = NULL;
    const enum sf_status status =
        sf_many_new(((struct scene *)context)->texts, 10, &many, err);

    CHECK((status == SF_OK) == (many != NULL));
    sf_many_free(many);
    return status;
}

int main(void)
{
    struct scene *scene = calloc(1, sizeof *scene);
    struct dice dice = {3};

    CHECK(scene != NULL);
    test_against_one_by_one(scene);
    test_crowds(scene);
    test_what_is_no_text(scene);
    (void)make_texts(scene, &dice, 5);
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, make, scene);
    free(scene);
    return 0;
}

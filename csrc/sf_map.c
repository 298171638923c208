/* A whole file in memory. */
#include "sf_map.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

struct sf_map {
    void *data;
    size_t len;
};

enum sf_status sf_map_new(struct sf_file *file, struct sf_map **out, struct sf_err *err)
{
    struct sf_map *map = calloc(1, sizeof *map);
    if (map == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "map");
    }
    enum sf_status status = sf_file_acquire(file, err);
    if (status != SF_OK) {
        free(map);
        return status;
    }
    map->len = (size_t)sf_file_length(file);
    map->data =
        mmap(NULL, map->len, PROT_READ, MAP_SHARED, sf_file_descriptor(file), 0);
    if (map->data == MAP_FAILED) {
        status = sf_err_os(err, errno, SF_NO_OFFSET, "map the file");
    }
    sf_file_release(file);
    if (status != SF_OK) {
        free(map);
        return status;
    }
    *out = map;
    return SF_OK;
}

const uint8_t *sf_map_data(const struct sf_map *map)
{
    return map->data;
}

void sf_map_free(struct sf_map *map)
{
    if (map != NULL) {
        (void)munmap(map->data, map->len);
        free(map);
    }
}

/* A whole file in memory. */
#include "sf_map.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct sf_map {
    void *data;
    size_t len;
    size_t skip; /* bytes of the first page before the file's view */
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
    uint64_t start;
    if (!sf_file_start(file, &start)) {
        status = sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "no map shows such a view");
    } else {
        map->skip = (size_t)(start % (size_t)sysconf(_SC_PAGESIZE));
        map->len = (size_t)sf_file_length(file) + map->skip;
        map->data = mmap(NULL, map->len, PROT_READ, MAP_SHARED,
                         sf_file_descriptor(file), (off_t)(start - map->skip));
        if (map->data == MAP_FAILED) {
            status = sf_err_os(err, errno, SF_NO_OFFSET, "map the file");
        }
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
    return (const uint8_t *)map->data + map->skip;
}

void sf_map_free(struct sf_map *map)
{
    if (map != NULL) {
        (void)munmap(map->data, map->len);
        free(map);
    }
}

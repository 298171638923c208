/* A whole file in memory, read-only; it outlives the file's descriptors. */
#ifndef SF_MAP_H
#define SF_MAP_H

#include "sf_file.h"

struct sf_map;

enum sf_status sf_map_new(struct sf_file *file, struct sf_map **out,
                          struct sf_err *err);
const uint8_t *sf_map_data(const struct sf_map *map);
/* NULL is allowed. */
void sf_map_free(struct sf_map *map);

#endif

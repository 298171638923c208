/* Runs of printable characters.  Pure, cannot fail. */
#ifndef SF_TEXT_H
#define SF_TEXT_H

#include "sf_base.h"

enum sf_text_encoding { SF_TEXT_ASCII, SF_TEXT_UTF16LE, SF_TEXT_UTF16BE };

/* Write (offset, length) in bytes of each run of printable ASCII characters (space to
 * tilde, and tab) of at least LEAST characters at or after FROM to OUT, at most CAP.  A
 * run that touches either end of DATA is told whatever its length: it may go on there.
 * Characters of UTF-16 lie at even offsets, and LEN is even then.  *NEXT gets the place
 * to go on from, LEN when all was seen. */
size_t sf_text_runs(const uint8_t *data, size_t len, enum sf_text_encoding encoding,
                    size_t least, size_t from, uint64_t (*out)[2], size_t cap,
                    size_t *next);

#endif

/* Runs of printable characters, and lines that show them.  Pure, cannot fail. */
#ifndef SF_TEXT_H
#define SF_TEXT_H

#include "sf_base.h"

enum sf_text_encoding { SF_TEXT_ASCII, SF_TEXT_UTF16LE, SF_TEXT_UTF16BE };

/* Write (offset, length) in bytes of each run of printable ASCII characters (space to
 * tilde, and tab) of at least LEAST characters at or after FROM to OUT, at most CAP.  A
 * run that touches either end of DATA is reported with any length: it may continue
 * there. Characters of UTF-16 lie at even offsets, and LEN is even then.  *NEXT gets
 * the place to go on from, LEN when all was seen. */
size_t sf_text_runs(const uint8_t *data, size_t len, enum sf_text_encoding encoding,
                    size_t least, size_t from, uint64_t (*out)[2], size_t cap,
                    size_t *next);

/* What a line about a text is made of. */
enum sf_line_kind {
    SF_LINE_BYTES,
    SF_LINE_HEX,
    SF_LINE_DECIMAL,
    SF_LINE_TEXT,
    SF_LINE_JSON
};

/* One part of a line: BYTES as they are; the text's place, counted from NUMBER, in
 * hexadecimal with 0x or in decimal; or the text, where a tab is shown as \t, and with
 * JSON the characters that a string escapes are, too. */
struct sf_line_part {
    enum sf_line_kind kind;
    const uint8_t *bytes;
    size_t len;
    uint64_t number;
};

/* Write a line for each run that sf_text_runs() tells and that touches neither end of
 * DATA, of at least LEAST characters, from FROM on, to OUT, at most CAP bytes.  *NEXT
 * gets the place to go on from: LEN when all was seen, FROM when CAP is too small for
 * the next line. Returns the bytes written. */
size_t sf_text_lines(const uint8_t *data, size_t len, enum sf_text_encoding encoding,
                     size_t least, size_t from, const struct sf_line_part *parts,
                     size_t part_count, uint8_t *out, size_t cap, size_t *next);

#endif

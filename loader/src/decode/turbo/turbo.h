/* What the C files of the turbo decoder share. */

#ifndef MAE_TURBO_H
#define MAE_TURBO_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

/* Bits that one table look-up decodes at most. */
#define MAE_LOOK 10

/* What the next MAE_LOOK bits hold: a code, or a code and the value that follows it.
 *
 *   bits 0-7    bits to take; 0 if the code is longer than MAE_LOOK bits, or its value does not fit in with it
 *   bits 8-15   zero coefficients before the value
 *   bits 16-31  the value, signed
 */
typedef uint32_t mae_entry;

/* A Huffman table ready for use. */
struct mae_table {
  mae_entry look[1 << MAE_LOOK];
  /* By length: the first code that is too large, aligned to 16 bits, and what gives a code's place in `symbols`. */
  uint32_t limit[18];
  int32_t offset[18];
  const uint8_t *symbols;
};

/* Where the entropy decoder is. */
struct mae_entropy {
  /* The scan's data without stuffing, and room behind them; grows to the largest scan seen. */
  uint8_t *data;
  size_t capacity;
  size_t length;
  const uint8_t *next;
  /* The bits that come next, topmost first, and how many of them are valid. */
  uint64_t bits;
  int count;
  int last_dc[MAX_COMPS_IN_SCAN];
  /* Takes the coefficients that nobody wants. */
  JBLOCK unwanted;
  struct mae_table dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
};

struct mae_jpeg {
  struct jpeg_decompress_struct info;
  struct jpeg_error_mgr errors;
  jmp_buf jump;
  /* The first thing that is wrong with the image: an error, or a warning that counts. */
  char message[JMSG_LENGTH_MAX];
  struct mae_entropy entropy;
};

/* Ends the image as damaged, by a jump. */
void mae_fail(struct mae_jpeg *self, const char *message);

/* Lets mae_entropy decode the image that has just been started, where it can; elsewhere libjpeg's own decoder stays. */
void mae_entropy_attach(struct mae_jpeg *self);

#endif

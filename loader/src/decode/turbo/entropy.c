/* Huffman decoding of sequential JPEG, put in the place of libjpeg-turbo's: two thirds of a decoder's time are spent here.
 *
 * Three things make it faster. The scan is copied once without its stuffed zeros, so that the bit buffer is refilled by whole
 * words; one look-up gives the code, the run and the value that follows, where they have no more than MAE_LOOK bits together, as
 * nearly all have; and as a damaged image is given up at once, there is one check for the end of the data in an MCU.
 *
 * Scans with restart markers, progressive and arithmetic ones, and images of several scans are left to libjpeg.
 */

#include <stdlib.h>
#include <string.h>

#include "turbo.h"

/* libjpeg keeps this in a header that it does not install. The layout is checked against the version below. */
struct jpeg_entropy_decoder {
  void (*start_pass)(j_decompress_ptr);
  boolean (*decode_mcu)(j_decompress_ptr, JBLOCKROW *);
  JDIMENSION (*decode_mcus)(j_decompress_ptr, void *, JDIMENSION, JDIMENSION, JDIMENSION);
  boolean (*process_restart)(j_decompress_ptr);
  boolean insufficient_data;
};
#define LAYOUT_IS_KNOWN (LIBJPEG_TURBO_VERSION_NUMBER >= 3001000 && LIBJPEG_TURBO_VERSION_NUMBER < 3002000)

/* More than any MCU can take, 10 blocks of 64 coefficients of 31 bits, and a word: what may be read before the end is checked. */
#define ROOM 4096

/* A run that ends the block. */
#define TO_THE_END DCTSIZE2

/* Zigzag to natural order. Runs that lead out of a block end at its last coefficient, which such a block does not have. */
static const uint8_t natural_order[2 * DCTSIZE2] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

/* The value that `size` bits stand for (ITU-T T.81, F.2.2.1). */
static inline int extend(int bits, int size) { return bits < (1 << size >> 1) ? bits - (1 << size) + 1 : bits; }

/* Zero coefficients before the value of a symbol; one without a value stands for 16 zeros, or for nothing but zeros. */
static inline int run_of(int symbol) { return symbol & 15 || symbol == 0xf0 ? symbol >> 4 : TO_THE_END; }

/* libjpeg has checked the table when it started the scan. */
static void build(struct mae_table *table, const JHUFF_TBL *source, int is_ac) {
  memset(table->look, 0, sizeof table->look);
  table->symbols = source->huffval;
  uint32_t code = 0;
  int place = 0;
  for (int length = 1; length <= 16; length++) {
    table->offset[length] = place - (int32_t)code;
    for (int i = 0; i < source->bits[length]; i++, code++, place++) {
      int symbol = source->huffval[place], size = symbol & 15, spare = MAE_LOOK - length;
      if (size > spare) continue;
      uint32_t entry = (uint32_t)(length + size);
      if (is_ac) entry |= (uint32_t)run_of(symbol) << 8;
      for (int rest = 0; rest < 1 << spare; rest++) {
        int value = size ? extend(rest >> (spare - size), size) : 0;
        table->look[(code << spare) + rest] = entry | (uint32_t)value << 16;
      }
    }
    table->limit[length] = code << (16 - length);
    code <<= 1;
  }
  table->limit[17] = UINT32_MAX;
}

/* The bit buffer, apart from the rest so that it stays in registers. */
struct window {
  const uint8_t *next;
  uint64_t bits;
  int count;
};

/* At least 56 valid bits; reads eight bytes, which ROOM allows for. */
static inline void refill(struct window *window) {
  uint64_t word;
  memcpy(&word, window->next, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  window->bits |= word >> window->count;
  window->next += (63 - window->count) >> 3;
  window->count |= 56;
}

static inline void take(struct window *window, int length) {
  window->bits <<= length;
  window->count -= length;
}

static inline mae_entry look(const struct window *window, const struct mae_table *table) {
  return table->look[window->bits >> (64 - MAE_LOOK)];
}

/* The same for what no look-up holds: 31 bits at most. Puts a code's entry together, 0 if there is no such code. */
static inline mae_entry look_further(struct window *window, const struct mae_table *table, int is_ac) {
  uint32_t bits = (uint32_t)(window->bits >> 48);
  int length = 1;
  while (bits >= table->limit[length]) length++;
  if (length > 16) return 0;
  int symbol = table->symbols[(int32_t)(bits >> (16 - length)) + table->offset[length]], size = symbol & 15;
  uint64_t rest = window->bits << length;
  int value = size ? extend((int)(rest >> (64 - size)), size) : 0;
  return (uint32_t)value << 16 | (is_ac ? (uint32_t)run_of(symbol) << 8 : 0) | (uint32_t)(length + size);
}

static inline int value_of(mae_entry entry) { return (int32_t)entry >> 16; }

/* One block, into `out` (zeroed, natural order). Returns -1 at a code that does not exist. */
static inline int decode_block(struct window *window, const struct mae_table *dc, const struct mae_table *ac, int *last_dc,
                               JCOEF *out) {
  refill(window);
  mae_entry entry = look(window, dc);
  if (entry == 0 && (entry = look_further(window, dc, 0)) == 0) return -1;
  take(window, (int)(entry & 0xff));
  *last_dc = (int)((unsigned)*last_dc + (unsigned)value_of(entry));
  out[0] = (JCOEF)*last_dc;

  int k = 1;
  do {
    refill(window);
    /* Four look-ups take 40 bits at most. */
    for (int i = 0; i < 4; i++) {
      entry = look(window, ac);
      if (entry == 0) {
        refill(window);
        if ((entry = look_further(window, ac, 1)) == 0) return -1;
        i = 4;
      }
      k += entry >> 8 & 0xff;
      take(window, (int)(entry & 0xff));
      out[natural_order[k]] = (JCOEF)value_of(entry);
      if (++k >= DCTSIZE2) return 0;
    }
  } while (1);
}

static boolean decode_mcu(j_decompress_ptr info, JBLOCKROW *blocks) {
  struct mae_jpeg *self = (struct mae_jpeg *)info->client_data;
  struct mae_entropy *state = &self->entropy;
  struct window window = {state->next, state->bits, state->count};
  for (int i = 0; i < info->blocks_in_MCU; i++) {
    int component = info->MCU_membership[i];
    const jpeg_component_info *about = info->cur_comp_info[component];
    int code = decode_block(&window, &state->dc[about->dc_tbl_no], &state->ac[about->ac_tbl_no], &state->last_dc[component],
                            blocks ? blocks[i][0] : state->unwanted);
    if (code != 0) mae_fail(self, "Corrupt JPEG data: bad Huffman code");
  }
  if ((size_t)(window.next - state->data) * 8 > state->length * 8 + (size_t)window.count)
    mae_fail(self, "Corrupt JPEG data: premature end of data segment");
  state->next = window.next;
  state->bits = window.bits;
  state->count = window.count;
  return TRUE;
}

/* Copies the scan without its stuffed zeros, up to the marker behind it, at which the source is left. */
static void unstuff(struct mae_jpeg *self) {
  struct mae_entropy *state = &self->entropy;
  struct jpeg_source_mgr *source = self->info.src;
  const uint8_t *from = source->next_input_byte, *end = from + source->bytes_in_buffer;
  size_t needed = source->bytes_in_buffer + ROOM;
  if (state->capacity < needed) {
    free(state->data);
    state->capacity = 0;
    state->data = malloc(needed);
    if (state->data == NULL) mae_fail(self, "no memory for the image's data");
    state->capacity = needed;
  }
  uint8_t *to = state->data;
  for (;;) {
    const uint8_t *stop = memchr(from, 0xff, (size_t)(end - from));
    const uint8_t *until = stop ? stop : end;
    memcpy(to, from, (size_t)(until - from));
    to += until - from;
    from = until;
    if (stop == NULL) break;
    /* Any number of 0xff bytes may stand before a marker; with a zero behind them they are one byte of data. */
    const uint8_t *code = stop;
    while (code < end && *code == 0xff) code++;
    if (code == end || *code != 0) break;
    *to++ = 0xff;
    from = code + 1;
  }
  source->next_input_byte = from;
  source->bytes_in_buffer = (size_t)(end - from);
  state->length = (size_t)(to - state->data);
  memset(to, 0, ROOM);
  state->next = state->data;
  state->bits = 0;
  state->count = 0;
}

void mae_entropy_attach(struct mae_jpeg *self) {
  j_decompress_ptr info = &self->info;
  if (!LAYOUT_IS_KNOWN || info->progressive_mode || info->arith_code || info->restart_interval != 0 ||
      jpeg_has_multiple_scans(info))
    return;
  struct mae_entropy *state = &self->entropy;
  boolean built_dc[NUM_HUFF_TBLS] = {FALSE}, built_ac[NUM_HUFF_TBLS] = {FALSE};
  for (int i = 0; i < info->comps_in_scan; i++) {
    const jpeg_component_info *about = info->cur_comp_info[i];
    if (!built_dc[about->dc_tbl_no]) build(&state->dc[about->dc_tbl_no], info->dc_huff_tbl_ptrs[about->dc_tbl_no], 0);
    if (!built_ac[about->ac_tbl_no]) build(&state->ac[about->ac_tbl_no], info->ac_huff_tbl_ptrs[about->ac_tbl_no], 1);
    built_dc[about->dc_tbl_no] = built_ac[about->ac_tbl_no] = TRUE;
    state->last_dc[i] = 0;
  }
  unstuff(self);
  info->entropy->decode_mcu = decode_mcu;
}

/* The calls to libjpeg-turbo that turbo.rs makes, each a whole of its own.
 *
 * libjpeg reports errors by a jump out of its depths (longjmp), which must not pass through Rust; so every call that
 * may jump stands here, behind a function that returns a code. Nothing is decided here: sizes, scales and bounds come
 * from turbo.rs.
 */

#include <stdlib.h>
#include <string.h>

#include <jerror.h>

#include "turbo.h"

/* What the image is, and what of it to decode; turbo.rs holds the same. */
struct mae_jpeg_size {
  uint32_t width, height;
  /* Pixels of an iMCU: what columns of a region must be aligned to. */
  uint32_t mcu_width, mcu_height;
};

struct mae_jpeg_region {
  uint32_t scale;
  /* In pixels of the scaled image. */
  uint32_t x, y, width, height;
};

static void error_exit(j_common_ptr info) {
  struct mae_jpeg *self = (struct mae_jpeg *)info->client_data;
  info->err->format_message(info, self->message);
  longjmp(self->jump, 1);
}

void mae_fail(struct mae_jpeg *self, const char *message) {
  snprintf(self->message, sizeof self->message, "%s", message);
  longjmp(self->jump, 1);
}

/* Level -1 is a warning: data that contradict the format, which libjpeg would paper over with gray. */
static void emit_message(j_common_ptr info, int level) {
  struct mae_jpeg *self = (struct mae_jpeg *)info->client_data;
  if (level >= 0) return;
  switch (info->err->msg_code) {
  case JWRN_EXTRANEOUS_DATA: /* stuffing before a marker: every pixel is there */
  case JWRN_ADOBE_XFORM:
  case JWRN_JFIF_MAJOR:
    return;
  }
  if (info->err->num_warnings++ == 0) info->err->format_message(info, self->message);
}

static void output_message(j_common_ptr info) { (void)info; }

static int create(struct mae_jpeg *self) {
  if (setjmp(self->jump)) return -1;
  jpeg_create_decompress(&self->info);
  return 0;
}

/* Null if there is no memory. */
struct mae_jpeg *mae_jpeg_new(void) {
  struct mae_jpeg *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->info.err = jpeg_std_error(&self->errors);
  self->errors.error_exit = error_exit;
  self->errors.emit_message = emit_message;
  self->errors.output_message = output_message;
  self->info.client_data = self;
  if (create(self) != 0) {
    free(self);
    return NULL;
  }
  return self;
}

void mae_jpeg_free(struct mae_jpeg *self) {
  jpeg_destroy_decompress(&self->info);
  free(self->entropy.data);
  free(self);
}

#define TEXT(x) #x
#define TEXT_OF(x) TEXT(x)

/* The library's version, for the fingerprint of a run. */
const char *mae_jpeg_version(void) { return TEXT_OF(LIBJPEG_TURBO_VERSION); }

const char *mae_jpeg_message(const struct mae_jpeg *self) { return self->message; }

/* Reads the header of the image in `data`, which must stay where it is until mae_jpeg_decode has returned. */
int mae_jpeg_header(struct mae_jpeg *self, const uint8_t *data, size_t length, struct mae_jpeg_size *size) {
  j_decompress_ptr info = &self->info;
  self->message[0] = '\0';
  if (setjmp(self->jump)) {
    jpeg_abort_decompress(info);
    return -1;
  }
  /* Also after an image whose decoding was given up. */
  jpeg_abort_decompress(info);
  /* That frees what the last image was converted with, but leaves it named. Skipping rows writes to it where it is named, though an image
   * whose upsampling and conversion are merged, as fast decoding does, makes none of its own. */
  info->cconvert = NULL;
  info->cquantize = NULL;
  jpeg_mem_src(info, data, length);
  jpeg_read_header(info, TRUE);
  size->width = info->image_width;
  size->height = info->image_height;
  /* A scan of one component has blocks of its own size, whatever its sampling factors say. */
  int single = info->num_components == 1;
  size->mcu_width = DCTSIZE * (single ? 1 : info->max_h_samp_factor);
  size->mcu_height = DCTSIZE * (single ? 1 : info->max_v_samp_factor);
  return 0;
}

/* Decodes the region to `out`, rows of region->width pixels of `channels` bytes, then reads the image to its end, so that
 * damage below the region shows too. `out` has room for one row more than the region. */
int mae_jpeg_decode(struct mae_jpeg *self, int channels, int fast, const struct mae_jpeg_region *region, uint8_t *out) {
  j_decompress_ptr info = &self->info;
  if (setjmp(self->jump)) {
    jpeg_abort_decompress(info);
    return -1;
  }
  info->out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  info->scale_num = 1;
  info->scale_denom = region->scale;
  info->do_fancy_upsampling = fast ? FALSE : TRUE;
  info->dct_method = fast ? JDCT_IFAST : JDCT_ISLOW;
  jpeg_start_decompress(info);
  mae_entropy_attach(self);

  JDIMENSION x = region->x, width = region->width, bottom = region->y + region->height;
  if (bottom > info->output_height || x + width > info->output_width) 
    mae_fail(self, "the region is not inside the scaled image");
  jpeg_crop_scanline(info, &x, &width);
  if (x != region->x || width != region->width) 
    mae_fail(self, "the region is not aligned to the image's blocks");
  if (region->y > 0) jpeg_skip_scanlines(info, region->y);
  size_t stride = (size_t)width * channels;
  while (info->output_scanline < bottom) {
    JSAMPROW row = out + (info->output_scanline - region->y) * stride;
    jpeg_read_scanlines(info, &row, 1);
  }
  /* Skipping to the very end would not read what is skipped, so the last rows are read. Merged upsampling, which fast decoding
   * uses, makes two rows at a time and loses count where an odd number of them is skipped. */
  if (bottom < info->output_height) {
    JDIMENSION skip = (info->output_height - bottom - 1) & ~(JDIMENSION)1;
    if (skip > 0) jpeg_skip_scanlines(info, skip);
    while (info->output_scanline < info->output_height) {
      JSAMPROW row = out + region->height * stride;
      jpeg_read_scanlines(info, &row, 1);
    }
  }
  jpeg_finish_decompress(info);
  return self->errors.num_warnings == 0 ? 0 : -1;
}

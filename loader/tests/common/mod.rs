//! Tars and JPEGs to test with.

use std::path::Path;

use jpeg_encoder::{ColorType, Encoder};

/// Writes a tar of files with these names and contents.
pub(crate) fn tar(path: &Path, files: impl IntoIterator<Item = (String, Vec<u8>)>) {
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_slice())
            .unwrap();
    }
    tar.into_inner().unwrap();
}

/// A JPEG of quality 90, by the values of its pixels, `[height, width, 3]`; `set` may change how it is encoded.
pub(crate) fn jpeg(
    (width, height): (usize, usize),
    set: impl FnOnce(&mut Encoder<&mut Vec<u8>>),
    value: impl FnMut(usize) -> u8,
) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height * 3).map(value).collect();
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 90);
    set(&mut encoder);
    encoder
        .encode(&pixels, width as u16, height as u16, ColorType::Rgb)
        .unwrap();
    bytes
}

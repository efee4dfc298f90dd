//! The reference code's form: a file of torch's whose `checkpoint["model"]` is a dictionary of tensors.
//!
//! The pickle names nothing but dictionaries, tensors and float storages, so that `torch.load(…, weights_only=True)` takes it.
//! Beside the weights stands what they do not say themselves, as JSON; the reference code ignores it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use mae_model::StateDict;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::Prepared;
use crate::checkpoint::foreign::error::Result;
use crate::checkpoint::foreign::facts::{DescribedDecoder, Description};
use crate::checkpoint::foreign::{DESCRIPTION, Weights};

const FILE: &str = "model.pth";
/// Storages begin at multiples of this, as torch's do, so that it can map them.
const ALIGNMENT: u16 = 64;

pub(super) fn prepare(weights: Weights, mask_ratio: f64) -> Result<Prepared> {
    weights.without_tables("the reference code's encoder")?;
    weights.with_plain_encoder("the reference code's model")?;
    weights.of_pixels("the reference code")?;
    let decoder = match &weights.decoder {
        Some(_) => {
            let config = weights.mae_config()?;
            Some(DescribedDecoder {
                heads: config.decoder_heads,
                norm_pix_loss: config.norm_pix_loss,
            })
        }
        None => None,
    };
    let description = Description {
        vit: weights.vit()?,
        decoder,
        mask_ratio,
    };
    let description = serde_json::to_string(&description).map_err(io::Error::from)?;
    Ok(Prepared {
        files: Box::new(move |folder| write(&folder.join(FILE), &weights.state, &description)),
        usage: Box::new(|folder| {
            format!(
                "torch.load(\"{}\", map_location=\"cpu\")[\"model\"]",
                folder.join(FILE).display()
            )
        }),
    })
}

fn write(path: &Path, state: &StateDict, description: &str) -> io::Result<()> {
    let mut zip = ZipWriter::new(BufWriter::new(File::create(path)?));
    let stored = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(ALIGNMENT);
    zip.start_file("model/data.pkl", stored)?;
    zip.write_all(&pickle(state, description))?;
    zip.start_file("model/byteorder", stored)?;
    zip.write_all(b"little")?;
    for (key, tensor) in state.values().enumerate() {
        let large = size_of_val(tensor.data.as_slice()) as u64 > u64::from(u32::MAX);
        zip.start_file(format!("model/data/{key}"), stored.large_file(large))?;
        for numbers in tensor.data.chunks(1 << 16) {
            let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            zip.write_all(&bytes)?;
        }
    }
    zip.start_file("model/version", stored)?;
    zip.write_all(b"3\n")?;
    zip.finish()?.flush()
}

/// `{"model": {name: tensor, …}, "mae": description}` in protocol 2. The storages are numbered in the dictionary's order.
fn pickle(state: &StateDict, description: &str) -> Vec<u8> {
    let mut out = Pickler(b"\x80\x02}(".to_vec());
    out.text("model");
    out.ordered_dictionary();
    out.0.push(b'(');
    for (key, (name, tensor)) in state.iter().enumerate() {
        out.text(name);
        out.global("torch._utils", "_rebuild_tensor_v2");
        out.0.push(b'(');
        // The storage, by its kind, number format, key, device and count of numbers.
        out.0.push(b'(');
        out.text("storage");
        out.global("torch", "FloatStorage");
        out.text(&key.to_string());
        out.text("cpu");
        out.integer(tensor.data.len());
        out.0.extend(b"tQ");
        // From its first number; shape and strides; no gradient, no hooks.
        out.integer(0);
        out.integers(&tensor.shape);
        out.integers(&strides(&tensor.shape));
        out.0.push(0x89);
        out.ordered_dictionary();
        out.0.extend(b"tR");
    }
    out.0.push(b'u');
    out.text(DESCRIPTION);
    out.text(description);
    out.0.extend(b"u.");
    out.0
}

fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len())
        .map(|i| shape[i + 1..].iter().product())
        .collect()
}

/// Writes a pickle's instructions.
struct Pickler(Vec<u8>);

impl Pickler {
    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn integer(&mut self, number: usize) {
        match i32::try_from(number) {
            Ok(number) => {
                self.0.push(b'J');
                self.0.extend(number.to_le_bytes());
            }
            Err(_) => {
                // Nine bytes, so that the sign's bit is clear.
                self.0.extend([0x8a, 9]);
                self.0.extend((number as u64).to_le_bytes());
                self.0.push(0);
            }
        }
    }

    fn integers(&mut self, numbers: &[usize]) {
        self.0.push(b'(');
        numbers.iter().for_each(|&number| self.integer(number));
        self.0.push(b't');
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.push(b'c');
        self.0.extend(format!("{module}\n{name}\n").as_bytes());
    }

    fn ordered_dictionary(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend(b")R");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::foreign::archive::Archive;
    use mae_model::StateTensor;

    #[test]
    fn what_is_written_is_read_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let tensor = |shape: &[usize], data: Vec<f32>| StateTensor {
            shape: shape.to_vec(),
            data,
        };
        let state = StateDict::from([
            (
                "cls_token".into(),
                tensor(&[1, 1, 3], vec![0.1, -0.0, f32::MIN_POSITIVE / 2.0]),
            ),
            (
                "patch_embed.proj.weight".into(),
                tensor(&[2, 1, 1, 1], vec![3e38, 1.0]),
            ),
            (
                "norm.bias".into(),
                tensor(&[70_000], (0..70_000).map(|i| i as f32).collect()),
            ),
        ]);
        write(&path, &state, "{}").unwrap();
        let mut archive = Archive::open(&path, None).unwrap();
        assert_eq!(archive.about.key.as_deref(), Some("model"));
        assert_eq!(archive.about.described.as_deref(), Some("{}"));
        let names: Vec<(&str, &str)> = state
            .keys()
            .map(|name| (name.as_str(), name.as_str()))
            .collect();
        let read = archive.read(&names).unwrap();
        assert_eq!(read, state);
        assert_eq!(read["cls_token"].data[1].to_bits(), (-0.0f32).to_bits());
    }
}

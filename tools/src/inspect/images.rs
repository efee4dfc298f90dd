//! Looks into a spread of a dataset's images: their formats and sizes, and whether they decode.

use std::collections::BTreeMap;

use mae_loader::decode::{Decoder, ImageSize, PngDecoder, Wanted, ZuneDecoder};
use mae_loader::{Dataset, SampleId};
use serde::Serialize;

/// Images beyond this many pixels are reported, not decoded.
const MAX_PIXELS: u64 = 1 << 28;

#[derive(Debug, Default, Serialize)]
pub(super) struct ImageReport {
    pub(super) examined: u64,
    pub(super) formats: BTreeMap<&'static str, u64>,
    pub(super) width: Spread,
    pub(super) height: Spread,
    pub(super) bytes: Spread,
    /// Images that do not decode, and why.
    pub(super) bad: Vec<String>,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct Spread {
    pub(super) min: u64,
    pub(super) mean: f64,
    pub(super) max: u64,
    #[serde(skip)]
    count: u64,
}

impl Spread {
    fn add(&mut self, value: u64) {
        self.min = if self.count == 0 {
            value
        } else {
            self.min.min(value)
        };
        self.max = self.max.max(value);
        self.count += 1;
        self.mean += (value as f64 - self.mean) / self.count as f64;
    }
}

/// Decodes up to `count` images, evenly spread over the dataset.
pub(super) fn examine(dataset: &Dataset, count: u64) -> ImageReport {
    let mut report = ImageReport::default();
    let (mut jpeg, mut png) = (
        ZuneDecoder::new(3, MAX_PIXELS),
        PngDecoder::new(3, MAX_PIXELS),
    );
    let mut bytes = Vec::new();
    let stride = dataset.len().div_ceil(count.max(1)).max(1);
    for (place, id) in (0_u64..).zip(dataset.ids()) {
        if count == 0 || !place.is_multiple_of(stride) {
            continue;
        }
        report.examined += 1;
        if let Err(reason) = one(dataset, id, &mut bytes, &mut jpeg, &mut png, &mut report) {
            report
                .bad
                .push(format!("{}: {reason}", dataset.describe(id)));
        }
    }
    report
}

fn one(
    dataset: &Dataset,
    id: SampleId,
    bytes: &mut Vec<u8>,
    jpeg: &mut ZuneDecoder,
    png: &mut PngDecoder,
    report: &mut ImageReport,
) -> Result<(), String> {
    dataset.read_image(id, bytes).map_err(|e| e.to_string())?;
    report.bytes.add(bytes.len() as u64);
    let (name, decoder): (_, &mut dyn Decoder) = match bytes.as_slice() {
        [0xff, 0xd8, ..] => ("jpeg", jpeg),
        [0x89, b'P', b'N', b'G', ..] => ("png", png),
        [] => return Err("an empty image".into()),
        _ => return Err("neither a JPEG nor a PNG image".into()),
    };
    *report.formats.entry(name).or_default() += 1;
    let mut whole = |size: ImageSize| {
        report.width.add(size.width.into());
        report.height.add(size.height.into());
        Ok(Wanted::whole(size))
    };
    decoder
        .decode(bytes, &mut whole)
        .map(|_| ())
        .map_err(|e| e.to_string())
}

//! Draws what each mask sampling leaves of an image: from left to right random masks of 75% and 50%, blocks of 50% and 75%, a grid of
//! 75%; above one draw, below another.
//!
//! ```text
//! cargo run -p mae-loader --example masks -- OUTPUT.png [IMAGE.png|IMAGE.jpg]
//! ```
//!
//! Without an image one is drawn. `docs/guides/masks.png` was made so.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use mae_loader::shard::{Limits, ShardTarget, ShardWriter};
use mae_loader::{
    BlockMasks, Cursor, Dataset, DatasetOptions, LabelSource, Loader, MaskSampling, Transform,
};

/// Patches along a side.
const GRID: usize = 14;
/// Pixels along a side of a patch.
const PATCH: usize = 8;
const SIDE: usize = GRID * PATCH;
/// Between pictures.
const GAP: usize = 8;
/// Of each sampling.
const DRAWS: usize = 2;
const GREY: [u8; 3] = [128; 3];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(output) = arguments.next() else {
        return Err("usage: masks OUTPUT.png [IMAGE.png|IMAGE.jpg]".into());
    };
    let (image, suffix) = match arguments.next() {
        Some(path) => {
            let suffix = Path::new(&path).extension().and_then(|it| it.to_str());
            let suffix = suffix.unwrap_or("jpg").to_ascii_lowercase();
            (fs::read(&path)?, suffix)
        }
        None => (png(&landscape(), SIDE, SIDE)?, "png".to_owned()),
    };

    let folder = std::env::temp_dir().join(format!("masks-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let sheet = dataset(&folder, &image, &suffix).and_then(|dataset| sheet(&dataset));
    fs::remove_dir_all(&folder)?;
    let sheet = sheet?;
    let (width, height) = (sheet.width, sheet.rgb.len() / 3 / sheet.width);
    fs::write(&output, png(&sheet.rgb, width, height)?)?;
    println!("{output}: {width} x {height} pixels");
    Ok(())
}

/// The image as often as masks are drawn of it: a mask follows from the seed and the sample's place.
fn dataset(folder: &Path, image: &[u8], suffix: &str) -> Result<Arc<Dataset>, Box<dyn Error>> {
    let mut writer = ShardWriter::new(
        ShardTarget::prepare(folder, "image-%06d.tar".parse()?, false)?,
        Limits::default(),
    );
    for draw in 0..DRAWS {
        writer.write(&draw.to_string(), &[(suffix, image)])?;
    }
    writer.finish(None)?;
    let options = DatasetOptions {
        labels: LabelSource::None,
        ..DatasetOptions::default()
    };
    let spec = folder.join("image-000000.tar").display().to_string();
    Ok(Arc::new(Dataset::open(&[spec], &options)?))
}

/// Masked pictures beside and below each other.
struct Sheet {
    width: usize,
    rgb: Vec<u8>,
}

fn sheet(dataset: &Arc<Dataset>) -> Result<Sheet, Box<dyn Error>> {
    let blocks = MaskSampling::Block(BlockMasks::proportional(GRID * GRID));
    let columns = [
        (MaskSampling::Random, 0.75),
        (MaskSampling::Random, 0.5),
        (blocks, 0.5),
        (blocks, 0.75),
        (MaskSampling::Grid, 0.75),
    ];
    let width = columns.len() * (SIDE + GAP) - GAP;
    let height = DRAWS * (SIDE + GAP) - GAP;
    let mut rgb = vec![255; 3 * width * height];
    for (column, (sampling, ratio)) in columns.into_iter().enumerate() {
        let keep = ((GRID * GRID) as f64 * (1.0 - ratio)) as usize;
        let loader = Loader::builder(Arc::clone(dataset))
            .image_size(SIDE as u32, SIDE as u32)
            .transform(Transform::Eval {
                resize: SIDE as u32,
            })
            .batch_size(DRAWS)
            .sampled_masks(sampling, (GRID, GRID), keep)
            .build()?;
        let batch = loader.batches(Cursor::default()).next();
        let batch = batch.ok_or("the data are empty")??;
        if let Some(bad) = batch.bad().first() {
            return Err(format!("the image cannot be decoded: {}", bad.reason).into());
        }
        let images = batch.pixels().chunks_exact(3 * SIDE * SIDE);
        let restores = batch.ids_restore().chunks_exact(GRID * GRID);
        for (draw, (image, restore)) in images.zip(restores).enumerate() {
            for (at, pixel) in image.chunks_exact(3).enumerate() {
                let (y, x) = (at / SIDE, at % SIDE);
                let patch = y / PATCH * GRID + x / PATCH;
                let visible = (restore[patch] as usize) < keep;
                let (y, x) = (draw * (SIDE + GAP) + y, column * (SIDE + GAP) + x);
                let pixel = if visible { pixel } else { &GREY };
                rgb[3 * (y * width + x)..][..3].copy_from_slice(pixel);
            }
        }
    }
    Ok(Sheet { width, rgb })
}

/// A sun over hills.
fn landscape() -> Vec<u8> {
    let pixel = |at: usize| {
        let (x, y) = ((at % SIDE) as f32, (at / SIDE) as f32);
        let hill = |base: f32, height: f32, length: f32, shift: f32| {
            base - height * (x / length + shift).sin()
        };
        if (x - 78.0).hypot(y - 30.0) < 15.0 {
            [250, 206, 74]
        } else if y > hill(88.0, 9.0, 15.0, 2.0) {
            [34, 92, 56]
        } else if y > hill(68.0, 16.0, 21.0, 0.0) {
            [82, 148, 82]
        } else {
            let share = y / SIDE as f32;
            [
                (88.0 + 150.0 * share) as u8,
                (152.0 + 70.0 * share) as u8,
                230,
            ]
        }
    };
    (0..SIDE * SIDE).flat_map(pixel).collect()
}

fn png(rgb: &[u8], width: usize, height: usize) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    encoder.write_header()?.write_image_data(rgb)?;
    Ok(bytes)
}

//! How many images a second a core of this machine makes ready, measured as `mae bench loader --bare` does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mae_loader::{Dataset, DatasetOptions, Loader, Transform};
use mae_trainer::PretrainConfig;

use crate::bench::loader::bare;
use crate::cli::CacheArgs;
use crate::made;

/// Pictures that are made up where there are no data. They are decoded over and over.
const PICTURES: usize = 16;
/// Measured, after as long that is not.
const WINDOW: Duration = Duration::from_millis(1000);

/// What one core does.
pub(super) struct Core {
    pub(super) images_per_second: f64,
    /// What was decoded, and by what.
    pub(super) of: String,
}

/// On pictures made up for it.
pub(super) fn on_made_pictures(config: &PretrainConfig) -> anyhow::Result<Core> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    made::shards(folder.path(), PICTURES, made::PHOTOGRAPH)?;
    let spec = folder.path().join("*.tar").display().to_string();
    let data = Dataset::open(&[spec], &DatasetOptions::default())?;
    let bytes = mean_bytes(&data) / 1e3;
    let what = format!("made-up JPEGs of 500 × 375 pixels and {bytes:.0} kB");
    measure(config, data, &what)
}

/// Data as they are.
pub(super) fn open(specs: &[String], cache: &CacheArgs) -> anyhow::Result<Dataset> {
    let options = DatasetOptions {
        cache_dir: cache.cache.clone(),
        cache_bytes: cache.cache_size.0,
        ..DatasetOptions::default()
    };
    Ok(Dataset::open(specs, &options)?)
}

/// On `data`.
pub(super) fn measure(config: &PretrainConfig, data: Dataset, what: &str) -> anyhow::Result<Core> {
    let mae = config.mae();
    let (height, width) = mae.vit.image_size;
    let loader = Loader::builder(Arc::new(data))
        .image_size(height as u32, width as u32)
        .batch_size(config.repeats)
        .transform(Transform::default())
        .masks(mae.patches(), config.keep())
        .repeats(config.repeats)
        .threads(1)
        .epochs(u64::MAX)
        .decoder(config.decoder)
        .build()?;
    let rate = bare(&loader, 1, config.repeats, (WINDOW, 1))?;
    Ok(Core {
        // Other programs may have the core for part of the time.
        images_per_second: rate.images_per_cpu_second.unwrap_or(rate.images_per_second),
        of: format!("{what}, decoded by {}", loader.decoder()),
    })
}

/// Of an image as it is stored.
pub(super) fn mean_bytes(data: &Dataset) -> f64 {
    let bytes: u64 = data.ids().map(|id| data.image_member(id).size).sum();
    bytes as f64 / data.len().max(1) as f64
}

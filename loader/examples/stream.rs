//! Streams a data set once and says how fast.
//!
//! ```text
//! cargo run --release -p mae-loader --example stream -- SPEC [THREADS] [EPOCHS]
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use mae_loader::{Cursor, Dataset, DatasetOptions, LabelSource, Loader};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(spec) = arguments.first() else {
        return Err("usage: stream SPEC [THREADS] [EPOCHS], with a spec such as shards/train-{000000..000009}.tar".into());
    };
    let number = |at: usize| arguments.get(at).map_or(Ok(1), |text| text.parse());

    let options = DatasetOptions {
        labels: LabelSource::None,
        ..DatasetOptions::default()
    };
    let dataset = Arc::new(Dataset::open(&[spec], &options)?);
    println!(
        "{} samples in {} shards",
        dataset.len(),
        dataset.shards().len()
    );

    let loader = Loader::builder(Arc::clone(&dataset))
        .image_size(224, 224)
        .batch_size(64)
        .masks(14 * 14, 49)
        .threads(number(1)?)
        .epochs(number(2)? as u64)
        .drop_last(false)
        .build()?;
    println!("{}", loader.fingerprint());

    let started = Instant::now();
    let mut samples = 0;
    for batch in loader.batches(Cursor::default()) {
        let batch = batch?;
        samples += batch.len();
        let at = batch.cursor();
        let rate = samples as f64 / started.elapsed().as_secs_f64();
        let first = dataset.describe(batch.samples()[0]);
        println!(
            "epoch {} step {:>3}: {} samples, first {first}, {rate:.0} img/s so far",
            at.epoch,
            at.step,
            batch.len()
        );
    }
    let stats = loader.stats();
    let each = |time: std::time::Duration| time.as_secs_f64() * 1e3 / stats.samples.max(1) as f64;
    println!(
        "{:.1} img/s; ms a sample: read {:.3}, decode {:.3}, resize {:.3}, mask {:.4}; {} bad; {:.1} MB read; waited {:.2?}",
        samples as f64 / started.elapsed().as_secs_f64(),
        each(stats.read),
        each(stats.decode),
        each(stats.resize),
        each(stats.mask),
        stats.bad,
        stats.bytes as f64 / 1e6,
        stats.waited,
    );
    Ok(())
}

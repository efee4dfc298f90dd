//! The loader's work on one thread without the pipeline, for profilers: `bare SPEC [zune|turbo] [SECONDS]`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mae_loader::{Dataset, DatasetOptions, Loader};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let spec = arguments
        .next()
        .ok_or("which shards? bare SPEC [zune|turbo] [SECONDS]")?;
    let decoder = arguments.next().unwrap_or_else(|| "auto".to_owned());
    let seconds: u64 = arguments.next().unwrap_or_else(|| "5".to_owned()).parse()?;
    let dataset = Arc::new(Dataset::open(&[spec], &DatasetOptions::default())?);
    let loader = Loader::builder(dataset).decoder(decoder.parse()?).build()?;
    let mut images = loader.bare_loop(0, 1);
    let started = Instant::now();
    let mut made = 0u32;
    while started.elapsed() < Duration::from_secs(seconds) {
        images.next_sample()?;
        made += 1;
    }
    println!(
        "{}: {:.0} images a second",
        loader.decoder(),
        f64::from(made) / started.elapsed().as_secs_f64()
    );
    Ok(())
}

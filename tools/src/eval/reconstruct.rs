//! `mae eval reconstruct`: pictures of what a model makes of images that it sees in part.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use clap::builder::TypedValueParser as _;
use mae_trainer::eval::reconstruct::{Choice, Shown, reconstruct};
use mae_trainer::picture::sheet::{Column, contact_sheet};
use mae_trainer::picture::{self, Picture, Reconstruction, Visible};
use serde_json::json;

use super::args::{Common, MaskArgs};
use super::{said, with_decoder};
use crate::{Outcome, Usage};

#[derive(Debug, Args)]
pub(super) struct ReconstructArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// The PNG to write, by a name that ends in .png: masked | reconstructed | original, or for several mask ratios a row for each image, a column for each ratio
    #[arg(long, default_value = "reconstructions.png", value_name = "FILE")]
    output: PathBuf,
    /// Also every picture as a PNG of its own in this folder, named by the image's key
    #[arg(long, value_name = "DIR")]
    separate: Option<PathBuf>,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    mask: MaskArgs,
    /// Whether visible patches of the reconstruction are the image's own, or what the model predicts there, which no loss was computed on
    #[arg(
        long,
        default_value = "true",
        action = clap::ArgAction::Set,
        value_name = "true|false"
    )]
    paste: bool,
}

/// Which images are shown.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// The images' keys; or `SHARD: KEY` where several shards have that key
    #[arg(long, num_args = 1.., value_name = "KEY", conflicts_with_all = ["count", "random_seed"])]
    images: Vec<String>,
    /// How many images, spread over the data
    #[arg(long, default_value = "8", value_parser = clap::value_parser!(u32).range(1..=1000).map(|n| n as usize), value_name = "N")]
    count: usize,
    /// Draw the images from this seed rather than at equal distances
    #[arg(long, value_name = "N")]
    random_seed: Option<u64>,
}

impl ImageArgs {
    pub(super) fn choice(&self) -> Choice {
        match (self.images.as_slice(), self.random_seed) {
            ([], None) => Choice::Spread(self.count),
            ([], Some(seed)) => Choice::Random {
                count: self.count,
                seed,
            },
            (keys, _) => Choice::Keys(keys.to_vec()),
        }
    }
}

/// Runs `mae eval reconstruct`.
pub(super) fn run(args: &ReconstructArgs) -> anyhow::Result<Outcome> {
    check_name(&args.output)?;
    let (subject, data) = with_decoder(&args.common)?;
    let images = args.images.choice().of(&data)?;
    let maskings = args.mask.maskings(&subject)?;
    let visible = match args.paste {
        true => Visible::Pasted,
        false => Visible::Predicted,
    };
    let shown: Vec<(f64, Vec<Shown>)> = maskings
        .iter()
        .map(|masking| {
            let (mae, stream) = (&subject.trained, args.common.encode.stream());
            let shown = reconstruct(&data, mae, &images, masking, visible, &stream)?;
            Ok((masking.ratio, shown))
        })
        .collect::<anyhow::Result<_>>()?;
    let ratios: Vec<f64> = maskings.iter().map(|masking| masking.ratio).collect();
    save(&sheet(&shown), &args.output)?;
    let files = match &args.separate {
        Some(folder) => separate(&shown, folder)?,
        None => vec![],
    };
    let keys: Vec<&str> = shown
        .first()
        .map_or(&[][..], |(_, shown)| shown)
        .iter()
        .map(|shown| shown.key.as_str())
        .collect();
    let output = args.output.display();
    if args.common.json {
        let files: Vec<String> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let json = json!({
            "evaluation": "reconstruct",
            "checkpoint": subject.source.path().display().to_string(),
            "step": subject.source.step(),
            "settings": {
                "mask_ratio": ratios,
                "mask_sampling": said(&maskings),
                "seed": args.mask.seed,
                "paste": args.paste,
            },
            "images": keys,
            "output": output.to_string(),
            "separate": files,
        });
        writeln!(io::stdout(), "{json}")?;
    } else {
        let (count, of) = (keys.len(), subject.source.path().display());
        let how = match ratios.as_slice() {
            [_] => "each masked | reconstructed | original".to_owned(),
            several => format!(
                "a row each: the original, then masked above reconstructed at {} mask ratios",
                several.len()
            ),
        };
        let mut text = format!("{output}: {count} images of {of}, {how}\n");
        text += &format!("their keys: {}\n", keys.join(" "));
        if let Some(folder) = &args.separate {
            text += &format!("{}: {} single pictures\n", folder.display(), files.len());
        }
        io::stdout().write_all(text.as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// All pictures in one.
fn sheet(shown: &[(f64, Vec<Shown>)]) -> Picture {
    let pictures = |shown: &[Shown]| -> Vec<Reconstruction> {
        shown.iter().map(|shown| shown.pictures.clone()).collect()
    };
    if let [(_, shown)] = shown {
        return picture::grid(&pictures(shown));
    }
    let columns = shown.iter().map(|(ratio, shown)| Column {
        percent: (100.0 * ratio).round() as u32,
        images: pictures(shown),
    });
    contact_sheet(&columns.collect::<Vec<_>>())
}

/// Writes every picture by itself, and returns the files.
fn separate(shown: &[(f64, Vec<Shown>)], folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let first = shown.first().map_or(&[][..], |(_, shown)| shown);
    let names = names(first.iter().map(|shown| shown.key.as_str()));
    let mut files = vec![];
    let mut write = |picture: &Picture, name: String| {
        let path = folder.join(name);
        save(picture, &path)?;
        files.push(path);
        anyhow::Ok(())
    };
    for (shown, name) in first.iter().zip(&names) {
        write(&shown.pictures.original, format!("{name}.original.png"))?;
    }
    for (ratio, shown) in shown {
        for (shown, name) in shown.iter().zip(&names) {
            let pictures = &shown.pictures;
            write(&pictures.masked, format!("{name}.{ratio}.masked.png"))?;
            let reconstructed = format!("{name}.{ratio}.reconstructed.png");
            write(&pictures.reconstructed, reconstructed)?;
        }
    }
    Ok(files)
}

/// A file name for each key, no two alike: a key may hold slashes, and shards may share keys.
fn names<'a>(keys: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut taken = HashSet::new();
    keys.map(|key| {
        let plain: String = key
            .chars()
            .map(|c| match c {
                c if c.is_alphanumeric() || "-_".contains(c) => c,
                _ => '_',
            })
            .collect();
        let plain = if plain.is_empty() {
            "_".to_owned()
        } else {
            plain
        };
        let more = (2..).map(|number| format!("{plain}-{number}"));
        let mut names = std::iter::once(plain.clone()).chain(more);
        names
            .find(|name| taken.insert(name.clone()))
            .unwrap_or(plain)
    })
    .collect()
}

/// A picture by another name would not open as what it says it is.
fn check_name(output: &Path) -> anyhow::Result<()> {
    match output.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("png") => Ok(()),
        _ => Err(Usage(format!(
            "--output {} does not end in .png, and PNG is what is written",
            output.display()
        ))
        .into()),
    }
}

fn save(picture: &Picture, path: &Path) -> anyhow::Result<()> {
    picture
        .save(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn single_pictures_have_names_of_their_own_within_the_folder() {
        let keys = ["class0/007", "class0_007", "../../x", "class0/007", ""];
        assert_eq!(
            names(keys.into_iter()),
            ["class0_007", "class0_007-2", "______x", "class0_007-3", "_"]
        );
    }
}

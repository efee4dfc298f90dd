//! The demo's report.html: what was measured, how the loss fell, what the model sees.

use mae_trainer::PretrainConfig;
use mae_trainer::metrics::log::LogLine;
use mae_trainer::picture::Picture;

use super::results::Results;
use super::{dataset, shapes};
use crate::eval::percent;
use crate::report::html::{Page, Table};
use crate::report::svg::{Chart, Series};

/// Pictures of each class on the sheet.
const SHEET_COLUMNS: u64 = 20;

/// What the page tells.
pub(super) struct Story<'a> {
    pub(super) config: &'a PretrainConfig,
    pub(super) results: &'a Results,
    pub(super) log: &'a [LogLine],
    pub(super) reconstructions: &'a Picture,
    pub(super) parameters: usize,
    pub(super) command: &'a str,
    /// A short run only shows that everything works.
    pub(super) quick: bool,
}

/// The page as HTML.
///
/// # Errors
/// Where a picture cannot be encoded or the settings cannot be written down.
pub(super) fn write(story: &Story<'_>) -> anyhow::Result<String> {
    let (config, results) = (story.config, story.results);
    let subtitle = format!(
        "A masked autoencoder of {} thousand parameters, trained without labels on {} pictures for {} epochs, {}.",
        story.parameters.div_ceil(1000),
        results.train_samples,
        config.epochs,
        seconds(story.log).map_or("on the CPU".into(), |s| format!(
            "in {s:.0} seconds on the CPU"
        )),
    );
    let mut page = Page::new("mae demo", &subtitle);
    if story.quick {
        page.paragraph(
            "Made with --quick: too short to learn much, long enough to see that every part works.",
        );
    }
    page.tiles(&tiles(results));

    page.heading("What the features are worth");
    page.paragraph(&format!(
        "{} classes: a shape with a texture, in random colours. A classifier sees each encoder's frozen features of {} training \
         images and names the class of {} test images. The random encoder is the same network before training.",
        shapes::CLASSES,
        results.train_samples,
        results.test_samples
    ));
    let (head, rows) = results.table();
    page.table(&Table {
        head,
        rows,
        highlight: Some(0),
    });
    page.paragraph(
        "kNN: weighted vote of the 20 nearest by cosine. Linear probe: a softmax layer on standardised features, its learning rate \
         chosen on a tenth of the training images. Features: mean of the patch tokens. Loss: over removed patches of the test images, on the \
         same masks for both encoders, with its standard error.",
    );

    page.heading("How the loss fell");
    if let Some(svg) = chart(story.log).draw() {
        page.chart(
            &svg,
            "Mean squared error over removed patches. Training images are cropped and mirrored at random; held-out images are not, \
             and their masks stay the same.",
        );
    }

    page.heading("What the model sees");
    page.picture(
        &story.reconstructions.to_png()?,
        &reconstruction_caption(config),
    );

    page.heading("The dataset");
    let (rgb, width) = dataset::contact_sheet(config.seed, SHEET_COLUMNS);
    page.picture(
        &Picture::from_pixels(&rgb, width, 3).to_png()?,
        &format!("A row of each class: {}.", shapes::class_names().join(", ")),
    );

    page.heading("How to make this page");
    page.preformatted(story.command);
    page.folded("Settings of the training", config.to_toml()?.trim_end());
    Ok(page.finish())
}

fn tiles(results: &Results) -> Vec<(String, String)> {
    let loss = |judged: &super::results::Judged| judged.loss.map_or(f64::NAN, |loss| loss.mean);
    vec![
        (
            percent(results.trained.probe.top1),
            format!(
                "linear probe; random encoder {}",
                percent(results.random.probe.top1)
            ),
        ),
        (
            percent(results.trained.knn.top1),
            format!(
                "nearest neighbours; random encoder {}",
                percent(results.random.knn.top1)
            ),
        ),
        (
            format!(
                "{:.2} → {:.2}",
                loss(&results.random),
                loss(&results.trained)
            ),
            "masked loss on test images, before and after".to_owned(),
        ),
    ]
}

fn reconstruction_caption(config: &PretrainConfig) -> String {
    let spared = if config.norm_pix_loss {
        " The model predicts each patch normalised by its own mean and deviation, which are taken from the original here: it shows \
         structure, not brightness."
    } else {
        ""
    };
    format!(
        "Test images, each with {:.0}% of its patches removed | those patches as the model fills them in | as it was.{spared}",
        100.0 * config.mask_ratio
    )
}

fn chart(log: &[LogLine]) -> Chart<'static> {
    let mut training = Vec::new();
    let mut held_out = Vec::new();
    for line in log {
        match line {
            LogLine::Step(line) => training.push((line.step as f64, line.loss)),
            LogLine::Epoch(line) => {
                held_out.extend(line.val_loss.map(|loss| (line.step as f64, loss)))
            }
        }
    }
    Chart {
        x_label: "step",
        y_label: "masked loss",
        series: vec![
            Series {
                name: "training",
                points: training,
                ranges: vec![],
                dots: false,
            },
            Series {
                name: "held-out",
                points: held_out,
                ranges: vec![],
                dots: true,
            },
        ],
    }
}

/// Seconds of training, as the log's last epoch has them.
fn seconds(log: &[LogLine]) -> Option<f64> {
    log.iter().rev().find_map(|line| match line {
        LogLine::Epoch(line) => Some(line.seconds),
        LogLine::Step(_) => None,
    })
}

//! `study.html`: the table beside the published one, figures, cost, reconstructions, failures, settings.

use std::fs;
use std::path::PathBuf;

use super::definition::{Definition, Metric};
use super::summary::{Pictures, Row, Values};
use crate::report::bars::{Bar, Bars};
use crate::report::html::{Gallery, Page, Table};
use crate::report::svg::{Chart, Series};

/// The whole page.
pub(super) fn write(study: &Definition, rows: &[Row<'_>], command: &str) -> String {
    let seeds = match study.seeds.as_slice() {
        [_] => "one seed".to_owned(),
        seeds => format!("{} seeds", seeds.len()),
    };
    let subtitle = format!("{} variants, {seeds}. {}", rows.len(), study.about);
    let mut page = Page::new(&study.title, &subtitle);
    page.table(&overview(study, rows));
    page.paragraph(&notes(study));
    for (column, &metric) in study.evaluate.iter().enumerate() {
        figure(&mut page, study, rows, column, metric);
    }
    pictures(&mut page, rows);
    let failures: Vec<Vec<String>> = rows
        .iter()
        .flat_map(|row| &row.failures)
        .map(|(task, reason)| vec![task.clone(), reason.clone()])
        .collect();
    if !failures.is_empty() {
        page.heading("What failed");
        page.table(&Table {
            head: vec!["task".into(), "reason".into()],
            rows: failures,
            highlight: None,
        });
    }
    page.heading("How it was made");
    page.preformatted(command);
    page.folded("Settings of the base and of each variant", &settings(study));
    page.finish()
}

/// The table, with the best of each metric in no way set apart: what differs less than the seeds do is not better.
pub(super) fn overview(study: &Definition, rows: &[Row<'_>]) -> Table {
    let published = |metric| published(rows, metric);
    let mut head = vec![study.knob.clone()];
    for &metric in &study.evaluate {
        head.push(metric.label().to_owned());
        if published(metric) {
            head.push("published".to_owned());
        }
    }
    head.extend(["MFLOPs an image", "images/s", "minutes"].map(String::from));
    let cells = |row: &Row<'_>| {
        let mut cells = vec![row.variant.name.clone()];
        for (metric, values) in &row.measured {
            cells.push(values.text(metric.decimals()));
            if published(*metric) {
                let value = row.variant.published.of(*metric);
                cells.push(value.map_or(String::new(), |value| format!("{value:.1}")));
            }
        }
        cells.push(
            row.flops
                .map_or(String::new(), |flops| format!("{:.0}", flops / 1e6)),
        );
        let mean = |values: &Values, decimals: usize| {
            values
                .mean()
                .map_or(String::new(), |mean| format!("{mean:.decimals$}"))
        };
        cells.push(mean(&row.images_per_second, 0));
        cells.push(mean(&row.minutes, 1));
        cells
    };
    Table {
        head,
        rows: rows.iter().map(cells).collect(),
        highlight: None,
    }
}

/// Whether anything was published of `metric`.
fn published(rows: &[Row<'_>], metric: Metric) -> bool {
    rows.iter()
        .any(|row| row.variant.published.of(metric).is_some())
}

fn notes(study: &Definition) -> String {
    let mut text = String::new();
    if study.seeds.len() > 1 {
        text += "Means over the seeds, with the lowest and the highest. ";
    }
    if study.measures(Metric::Loss) {
        text += "Losses are those of each variant's own masks and target, so that they compare only where these are the same. ";
    }
    text += "Cost is of pre-training: operations of one image in a step, forward and backward, and images a second on this machine";
    text += match study.measures(Metric::Finetune) {
        true => "; minutes hold fine-tuning, too.",
        false => ".",
    };
    if !study.source.is_empty() {
        text += &format!(" Published: {}.", study.source);
    }
    text
}

/// A metric over the knob, and what was published of it under that.
fn figure(page: &mut Page, study: &Definition, rows: &[Row<'_>], column: usize, metric: Metric) {
    let ours: Vec<Point<'_>> = rows
        .iter()
        .filter_map(|row| {
            let values = &row.measured[column].1;
            Some(Point {
                row,
                value: values.mean()?,
                range: values.range(),
                text: values.text(metric.decimals()),
            })
        })
        .collect();
    let theirs: Vec<Point<'_>> = rows
        .iter()
        .filter_map(|row| {
            let value = row.variant.published.of(metric)?;
            Some(Point {
                row,
                value,
                range: None,
                text: format!("{value:.1}"),
            })
        })
        .collect();
    let Some(svg) = draw(study, metric, &ours) else {
        return;
    };
    page.heading(metric.label());
    let seeds = match study.seeds.len() {
        1 => "From one seed.",
        _ => "Means over the seeds; the lines reach from the lowest to the highest.",
    };
    page.chart(&svg, seeds);
    // A single value is in the table already.
    let published = Some(theirs).filter(|theirs| theirs.len() > 1);
    if let Some(svg) = published.and_then(|theirs| draw(study, metric, &theirs)) {
        page.chart(&svg, &format!("Published: {}.", study.source));
    }
}

/// A variant's value in a figure.
struct Point<'a> {
    row: &'a Row<'a>,
    value: f64,
    range: Option<(f64, f64)>,
    text: String,
}

/// A line where all variants have places on the axis, else bars.
fn draw(study: &Definition, metric: Metric, points: &[Point<'_>]) -> Option<String> {
    let places: Option<Vec<f64>> = points.iter().map(|point| point.row.variant.at).collect();
    let range = |point: &Point<'_>| point.range.unwrap_or((f64::NAN, f64::NAN));
    let Some(places) = places else {
        let bars = points.iter().map(|point| Bar {
            name: point.row.variant.name.clone(),
            value: point.value,
            interval: range(point),
            text: point.text.clone(),
        });
        return Bars {
            label: metric.label(),
            bars: bars.collect(),
        }
        .draw();
    };
    let mut placed: Vec<(f64, &Point<'_>)> = places.into_iter().zip(points).collect();
    placed.sort_by(|one, other| one.0.total_cmp(&other.0));
    Chart {
        x_label: &study.knob,
        y_label: metric.label(),
        series: vec![Series {
            name: "",
            points: placed
                .iter()
                .map(|(at, point)| (*at, point.value))
                .collect(),
            ranges: placed.iter().map(|(_, point)| range(point)).collect(),
            dots: true,
        }],
    }
    .draw()
}

/// The same images by each variant. A picture that cannot be read any more is left out with its variant.
fn pictures(page: &mut Page, rows: &[Row<'_>]) {
    let read = |path: &PathBuf| fs::read(path).ok();
    let with_pictures = || rows.iter().filter(|row| !row.pictures.is_empty());
    let Some(first) = with_pictures().next() else {
        return;
    };
    let originals: Option<Vec<Vec<u8>>> = first
        .pictures
        .iter()
        .map(|image| read(&image.original))
        .collect();
    let mut gallery = Gallery {
        head: std::iter::once(String::new())
            .chain((1..=first.pictures.len()).map(|number| format!("image {number}")))
            .collect(),
        rows: vec![],
    };
    gallery
        .rows
        .extend(originals.map(|png| ("original".to_owned(), png)));
    for row in with_pictures() {
        let of = |file: fn(&Pictures) -> &PathBuf| -> Option<Vec<Vec<u8>>> {
            row.pictures.iter().map(|image| read(file(image))).collect()
        };
        let name = &row.variant.name;
        let masked = of(|image| &image.masked).map(|png| (format!("{name}: masked"), png));
        let rebuilt = of(|image| &image.reconstructed).map(|png| (format!("{name}: rebuilt"), png));
        gallery.rows.extend(masked.into_iter().chain(rebuilt));
    }
    page.heading("Reconstructions");
    page.gallery(
        &gallery,
        "The same images, masked as each variant was trained, and what its first seed makes of them; visible patches are the image's own.",
    );
}

/// The study's settings as TOML.
fn settings(study: &Definition) -> String {
    let mut text = String::new();
    let mut table = |name: String, table: &toml::Table| {
        if !table.is_empty() {
            text += &format!("[{name}]\n{table}\n");
        }
    };
    table("pretrain".into(), &study.pretrain);
    table("finetune".into(), &study.finetune);
    if let Some(tokenizer) = &study.tokenizer {
        table("tokenizer".into(), tokenizer);
    }
    for variant in &study.variants {
        table(format!("{}: pretrain", variant.name), &variant.pretrain);
        table(format!("{}: finetune", variant.name), &variant.finetune);
    }
    text
}

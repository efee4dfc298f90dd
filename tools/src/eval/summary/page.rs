//! The report for people: one HTML page.

use std::collections::BTreeSet;

use mae_trainer::eval::features::FeaturePooling;
use mae_trainer::picture::Picture;

use super::args::Protocol;
use super::figure::{Figure, Judged};
use super::measure::Measure;
use crate::eval::frozen::Judge;
use crate::report::bars::{Bar, Bars};
use crate::report::html::{Gallery, Page, Table};

/// The page.
///
/// # Errors
/// Where a picture cannot be encoded.
pub(super) fn write(measure: &Measure<'_>, judged: &[Judged]) -> anyhow::Result<String> {
    let args = measure.args;
    let models = counted(judged.len(), "model");
    let train = args.data.specs.join(" ");
    let learners: Vec<&str> = args
        .judges()
        .map(|(protocol, _)| learner(protocol))
        .collect();
    let subtitle = match (args.labels.val_data.as_slice(), learners.as_slice()) {
        ([], _) => format!("{models} judged on {train}."),
        (test, []) => format!("{models} judged on {}.", test.join(" ")),
        (test, learners) => format!(
            "{models} judged on {}; {} from {train}.",
            test.join(" "),
            match learners {
                [one] => format!("{one} learns"),
                several => format!("{} learn", several.join(" and ")),
            }
        ),
    };
    let mut page = Page::new("Checkpoints compared", &subtitle);
    let mut table = overview(judged);
    for cell in table.rows.iter_mut().flat_map(|row| row.iter_mut().skip(1)) {
        // Intervals below, so that the table is no wider than the page.
        *cell = cell.replace(" [", "\n[");
    }
    page.table(&table);
    page.paragraph(&explanation(measure, judged));
    for failure in judged.iter().flat_map(failures) {
        page.paragraph(&failure);
    }
    for (protocol, key) in first_of_each(judged) {
        // Bars side by side would say that they can be compared.
        if protocol == Protocol::Loss && targets(judged).len().max(samplings(judged).len()) > 1 {
            continue;
        }
        let figures: Vec<(&Judged, &Figure)> = judged
            .iter()
            .filter_map(|judged| Some((judged, judged.figure(protocol, key)?)))
            .collect();
        let Some((_, first)) = figures.first() else {
            continue;
        };
        page.heading(&capitalised(first.name));
        let direction = match first.higher_is_better {
            true => "higher is better",
            false => "lower is better",
        };
        let (scale, unit) = match first.is_share() {
            true => (100.0, "%, "),
            false => (1.0, ""),
        };
        let bars = Bars {
            label: &format!("{}, {unit}{direction}", first.name),
            bars: figures
                .iter()
                .map(|(judged, figure)| Bar {
                    name: judged.name.clone(),
                    value: scale * figure.value,
                    interval: (scale * figure.interval.0, scale * figure.interval.1),
                    text: figure.text(),
                })
                .collect(),
        };
        if let Some(svg) = bars.draw() {
            page.chart(
                &svg,
                &format!(
                    "{}, with 95% confidence intervals.",
                    counted(first.count, "image")
                ),
            );
        }
    }
    if let Some(gallery) = gallery(judged)? {
        page.heading("Reconstructions");
        page.gallery(&gallery, &caption(measure, judged));
    }
    page.heading("How to make this page");
    page.preformatted(&command(std::env::args()));
    Ok(page.finish())
}

/// What the models' losses are of, each once.
fn targets(judged: &[Judged]) -> Vec<&str> {
    each_once(judged.iter().filter_map(|judged| judged.target.as_deref()))
}

/// How the models' masks are chosen, each once.
fn samplings(judged: &[Judged]) -> Vec<&str> {
    let samplings = judged.iter().map(|judged| judged.mask_sampling.as_deref());
    each_once(samplings.flatten())
}

fn each_once<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

/// What there is not of a model, and why: protocols that failed for the same reason together.
fn failures(judged: &Judged) -> Vec<String> {
    let mut by_reason: Vec<(&str, Vec<&str>)> = vec![];
    for (protocol, reason) in &judged.failures {
        let what = match protocol {
            Protocol::Loss => "loss",
            Protocol::Reconstruct => "reconstructions",
            Protocol::Knn | Protocol::LinearProbe => learner(*protocol),
        };
        match by_reason.iter_mut().find(|(met, _)| met == reason) {
            Some((_, missing)) => missing.push(what),
            None => by_reason.push((reason.as_str(), vec![what])),
        }
    }
    let said = by_reason.into_iter();
    said.map(|(reason, missing)| {
        let missing = missing.join(" and no ");
        format!("No {missing} of {}: {reason}", judged.name)
    })
    .collect()
}

/// A row for each model, a column for each figure.
pub(super) fn overview(judged: &[Judged]) -> Table {
    // In the order in which they first turn up: a model without a decoder has fewer.
    let mut columns: Vec<&Figure> = vec![];
    for figure in judged.iter().flat_map(|judged| &judged.figures) {
        if !columns.iter().any(|column| column.name == figure.name) {
            columns.push(figure);
        }
    }
    let names = columns.iter().map(|column| column.name.to_owned());
    let head = ["", "step", "encoder"].map(String::from).into_iter();
    let rows = judged.iter().map(|judged| {
        let step = judged.step.map_or("–".into(), |step| step.to_string());
        let size = format!("{:.2} M", judged.parameters as f64 / 1e6);
        let figures = columns.iter().map(|column| {
            judged
                .figure(column.protocol, column.key)
                .map_or("–".into(), Figure::text)
        });
        [judged.name.clone(), step, size]
            .into_iter()
            .chain(figures)
            .collect()
    });
    Table {
        head: head.chain(names).collect(),
        rows: rows.collect(),
        highlight: None,
    }
}

/// What the numbers in the table mean.
fn explanation(measure: &Measure<'_>, judged: &[Judged]) -> String {
    let args = measure.args;
    let mut text = String::from(
        "In brackets: 95% confidence intervals over the images judged. All models see the same images, so a difference between two \
         of them is surer than their intervals suggest. Encoder: its parameters, in millions.",
    );
    if args.runs(Protocol::Loss) {
        text += &format!(
            " Masked loss: over removed patches, {:.0}% of them, on masks that stay the same.",
            100.0 * measure.mask_ratio
        );
        text += &match targets(judged).as_slice() {
            [] | ["pixels"] => String::new(),
            [one] => format!(" What is predicted: {one}."),
            several => format!(
                " Careful: the models predict different things ({}); their losses cannot be compared.",
                several.join("; ")
            ),
        };
        text += &match samplings(judged).as_slice() {
            [] | ["random"] => String::new(),
            [one] => format!(" Masks: {one}."),
            _ => format!(
                " Careful: each model has the masks of its training ({}); losses under different masks cannot be compared, unless \
                 --mask-sampling gives all of them the same.",
                each_sampling(judged)
            ),
        };
    }
    let test = match args.labels.val_data.as_slice() {
        [] => "every fifth image, held out",
        _ => "the test set",
    };
    for (protocol, judge) in args.judges() {
        let pooling = match judge.pooling(&args.labels) {
            FeaturePooling::Mean => "the mean of the patch tokens",
            FeaturePooling::Token => "the class token",
        };
        let how = match judge {
            Judge::Knn(_) => format!(
                "the weighted vote of the {}, by",
                counted(args.k, "nearest image")
            ),
            Judge::Sweep(_) => "a linear layer trained without augmentation on".to_owned(),
        };
        text += &format!(
            " {}: {how} frozen features ({pooling}), judged on {test}.",
            capitalised(learner(protocol))
        );
    }
    text
}

/// The masks of each model that has some.
fn each_sampling(judged: &[Judged]) -> String {
    let each = judged.iter().filter_map(|judged| {
        let sampling = judged.mask_sampling.as_ref()?;
        Some(format!("{}: {sampling}", judged.name))
    });
    each.collect::<Vec<_>>().join("; ")
}

/// What learns from the train set in `protocol`.
fn learner(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Knn => "kNN",
        _ => "linear probe",
    }
}

fn caption(measure: &Measure<'_>, judged: &[Judged]) -> String {
    let spared = match judged
        .iter()
        .any(|judged| judged.norm_pix_loss == Some(true))
    {
        true => {
            " Models that predict normalised patches are lent each patch's own mean and deviation: look at structure, not brightness."
        }
        false => "",
    };
    let masks = match samplings(judged).as_slice() {
        [] | ["random"] => String::new(),
        [one] => format!(" (masks: {one})"),
        _ => format!(" (masks of {})", each_sampling(judged)),
    };
    format!(
        "The same images, {:.0}% of their patches removed{masks}, as each model fills them in. Visible patches are the image's own.{spared}",
        100.0 * measure.mask_ratio
    )
}

/// Original, masked and each model's reconstruction; originals and masks again where a model's differ (another size or patch).
fn gallery(judged: &[Judged]) -> anyhow::Result<Option<Gallery>> {
    let mut columns: Vec<(String, Vec<&Picture>)> = vec![];
    let mut before: [Vec<&Picture>; 2] = [vec![], vec![]];
    let mut keys: &[_] = &[];
    for judged in judged.iter().filter(|judged| !judged.shown.is_empty()) {
        keys = &judged.shown;
        let pictures = || judged.shown.iter().map(|shown| &shown.pictures);
        let as_given = [
            ("original", pictures().map(|p| &p.original).collect()),
            ("masked", pictures().map(|p| &p.masked).collect()),
        ];
        for (before, (name, pictures)) in before.iter_mut().zip(as_given) {
            if *before != pictures {
                before.clone_from(&pictures);
                columns.push((name.to_owned(), pictures));
            }
        }
        let reconstructed = pictures().map(|p| &p.reconstructed).collect();
        columns.push((judged.name.clone(), reconstructed));
    }
    if keys.is_empty() {
        return Ok(None);
    }
    let mut rows = vec![];
    for (number, shown) in keys.iter().enumerate() {
        let of_image = columns.iter().filter_map(|(_, column)| column.get(number));
        let pngs = of_image.map(|picture| picture.to_png());
        rows.push((shown.key.clone(), pngs.collect::<Result<_, _>>()?));
    }
    let names = columns.into_iter().map(|(name, _)| name);
    let head = std::iter::once(String::new()).chain(names).collect();
    Ok(Some(Gallery { head, rows }))
}

/// The first figure of each protocol, which stands for it.
fn first_of_each(judged: &[Judged]) -> Vec<(Protocol, &'static str)> {
    let mut first: Vec<(Protocol, &'static str)> = vec![];
    for figure in judged.iter().flat_map(|judged| &judged.figures) {
        if !first
            .iter()
            .any(|(protocol, _)| *protocol == figure.protocol)
        {
            first.push((figure.protocol, figure.key));
        }
    }
    first
}

/// The command line, so that a shell reads it back as it was.
fn command(args: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:@%+".contains(c);
    let words = args.skip(1).map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    let words: Vec<String> = std::iter::once("mae".to_owned()).chain(words).collect();
    words.join(" ")
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// With a capital letter, unless it has one within its first word already, as kNN does.
fn capitalised(text: &str) -> String {
    let word = text.split(' ').next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if !word.contains(char::is_uppercase) => {
            first.to_uppercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mae_trainer::eval::reconstruct::Shown;
    use mae_trainer::picture::Reconstruction;

    use super::super::figure::tests::judged;
    use super::*;

    fn shown(masked: u8, reconstructed: u8) -> Vec<Shown> {
        let of = |tone| Picture::new(8, 8, [tone; 3]);
        vec![Shown {
            key: "cat/7".into(),
            pictures: Reconstruction {
                masked: of(masked),
                reconstructed: of(reconstructed),
                original: of(9),
            },
        }]
    }

    #[test]
    fn the_table_has_a_dash_for_what_was_not_measured() {
        let mut second = judged("b", 0.25);
        second
            .figures
            .retain(|figure| figure.protocol == Protocol::Knn);
        second.step = None;
        let table = overview(&[judged("a", 0.5), second]);
        assert_eq!(
            table.head,
            [
                "",
                "step",
                "encoder",
                "masked loss",
                "kNN top-1",
                "kNN top-5"
            ]
        );
        assert_eq!(table.rows[0][3], "0.5000 [0.4804, 0.5196]");
        assert_eq!(table.rows[1][..4], ["b", "–", "0.01 M", "–"]);
    }

    #[test]
    fn a_mask_is_shown_again_only_where_it_differs() {
        let with = |name: &str, shown| Judged {
            shown,
            ..judged(name, 0.5)
        };
        let all = [
            with("a", shown(1, 2)),
            judged("no decoder", 0.5),
            with("b", shown(1, 3)),
            with("c", shown(4, 5)),
        ];
        let gallery = gallery(&all).unwrap().unwrap();
        assert_eq!(
            gallery.head,
            ["", "original", "masked", "a", "b", "masked", "c"]
        );
        assert_eq!(gallery.rows[0].0, "cat/7");
        assert_eq!(gallery.rows[0].1.len(), 6);
        assert!(super::gallery(&[judged("a", 0.5)]).unwrap().is_none());
    }

    #[test]
    fn a_reason_is_told_once() {
        let mut judged = judged("a", 0.5);
        judged.failures = [
            (Protocol::Loss, "no decoder"),
            (Protocol::LinearProbe, "few samples"),
            (Protocol::Reconstruct, "no decoder"),
        ]
        .map(|(protocol, reason)| (protocol, reason.to_owned()))
        .to_vec();
        assert_eq!(
            failures(&judged),
            [
                "No loss and no reconstructions of a: no decoder",
                "No linear probe of a: few samples"
            ]
        );
    }

    #[test]
    fn commands_are_quoted_for_a_shell() {
        let words = ["/bin/mae", "eval", "runs/a b", "x-*.tar", "it's", ""];
        assert_eq!(
            command(words.map(String::from).into_iter()),
            "mae eval 'runs/a b' 'x-*.tar' 'it'\\''s' ''"
        );
    }

    #[test]
    fn headings_begin_with_a_capital() {
        assert_eq!(capitalised("masked loss"), "Masked loss");
        assert_eq!(capitalised("kNN top-1"), "kNN top-1");
    }
}

//! What was measured, as JSON and as a page.

use mae_model::Precision;
use mae_model::profile::OpTime;
use serde::Serialize;

use crate::table;
use crate::units::show_bytes;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) parameters: usize,
    pub(super) image_size: (usize, usize),
    pub(super) batch_size: usize,
    pub(super) visible_patches: usize,
    pub(super) removed_patches: usize,
    pub(super) device: String,
    pub(super) precision: Precision,
    pub(super) threads: usize,
    pub(super) steps: usize,
    pub(super) images_per_second: f64,
    /// Medians over the steps.
    pub(super) milliseconds: Milliseconds,
    /// Operations of the products for one image, forward and backward.
    pub(super) gigaflop_per_image: f64,
    /// Of the whole step.
    pub(super) gigaflop_per_second: f64,
    pub(super) product_gigaflop_per_second: f64,
    /// Of forward and backward, over the product rate.
    pub(super) share_of_product_rate: f64,
    pub(super) peak_memory_bytes: Option<u64>,
    /// Peak less 16 bytes a parameter: weights, gradients, two moments.
    pub(super) memory_beyond_parameters_bytes: Option<u64>,
    /// What the model and its step were planned to take.
    pub(super) planned_memory_bytes: u64,
    /// Peak less what was taken before the model was made.
    pub(super) grown_memory_bytes: Option<u64>,
    pub(super) minor_faults_per_step: Option<f64>,
    pub(super) loss: f32,
    /// As gigaflop_per_image, but counted by the products and attention themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) counted_gigaflop_per_image: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) profile: Option<Vec<Operation>>,
}

#[derive(Debug, Serialize)]
pub(super) struct Milliseconds {
    pub(super) step: f64,
    pub(super) step_min: f64,
    pub(super) step_max: f64,
    pub(super) forward: f64,
    pub(super) backward: f64,
    pub(super) optimizer: f64,
}

/// One operation in an average step.
#[derive(Debug, Serialize)]
pub(super) struct Operation {
    pub(super) name: String,
    pub(super) calls: f64,
    pub(super) milliseconds: f64,
    pub(super) share: f64,
    /// 0 where operations are not counted.
    pub(super) gigaflop: f64,
}

pub(super) fn per_step(operations: &[OpTime], steps: usize, whole: &[f64]) -> Vec<Operation> {
    let all: f64 = whole.iter().sum();
    let known: f64 = operations.iter().map(|op| op.time.as_secs_f64()).sum();
    let operation = |name: &str, (calls, flop): (u64, u64), seconds: f64| Operation {
        name: name.to_owned(),
        calls: calls as f64 / steps as f64,
        milliseconds: seconds * 1e3 / steps as f64,
        share: seconds / all,
        gigaflop: flop as f64 / steps as f64 / 1e9,
    };
    let between = operation("between operations", (0, 0), (all - known).max(0.0));
    operations
        .iter()
        .map(|op| operation(op.name, (op.calls, op.flop), op.time.as_secs_f64()))
        .chain([between])
        .collect()
}

/// For a terminal.
pub(super) fn page(report: &Report) -> String {
    let ms = |x: f64| format!("{x:.1}");
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "–".to_owned(), show_bytes);
    let mut rows: Vec<Vec<String>> = [
        ("img/s", format!("{:.2}", report.images_per_second)),
        ("ms a step", ms(report.milliseconds.step)),
        (
            "  lowest – highest",
            format!(
                "{:.1}–{:.1}",
                report.milliseconds.step_min, report.milliseconds.step_max
            ),
        ),
        ("  forward", ms(report.milliseconds.forward)),
        ("  backward", ms(report.milliseconds.backward)),
        ("  optimiser", ms(report.milliseconds.optimizer)),
        (
            "GFLOP an image",
            format!("{:.2}", report.gigaflop_per_image),
        ),
        ("GFLOP/s", format!("{:.0}", report.gigaflop_per_second)),
        (
            "  of a large product",
            format!("{:.0}", report.product_gigaflop_per_second),
        ),
        (
            "  forward + backward, share of it",
            format!("{:.1}%", report.share_of_product_rate * 100.0),
        ),
        ("peak memory", size(report.peak_memory_bytes)),
        (
            "  less 16 bytes a parameter",
            size(report.memory_beyond_parameters_bytes),
        ),
        (
            "  of the model and its step",
            size(report.grown_memory_bytes),
        ),
        ("  as planned", size(Some(report.planned_memory_bytes))),
        (
            "minor faults a step",
            report
                .minor_faults_per_step
                .map_or_else(|| "–".to_owned(), |faults| format!("{faults:.0}")),
        ),
        ("loss", format!("{:.4}", report.loss)),
    ]
    .map(|(name, value)| vec![name.to_owned(), value])
    .to_vec();
    rows.insert(0, vec!["batch".to_owned(), report.batch_size.to_string()]);
    let head = [
        format!("{}, {} {}", report.model, report.device, report.precision),
        format!("{} thr", report.threads),
    ];
    let mut text = table::text(&head, &rows);
    if let Some(operations) = &report.profile {
        let head = [
            "operation",
            "calls a step",
            "ms a step",
            "share",
            "GFLOP a step",
        ]
        .map(str::to_owned);
        let rows: Vec<Vec<String>> = operations
            .iter()
            .map(|op| {
                vec![
                    op.name.clone(),
                    format!("{:.0}", op.calls),
                    format!("{:.2}", op.milliseconds),
                    format!("{:.1}%", op.share * 100.0),
                    match op.gigaflop {
                        0.0 => "–".to_owned(),
                        gigaflop => format!("{gigaflop:.2}"),
                    },
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table::text(&head, &rows));
    }
    text
}

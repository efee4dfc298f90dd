//! A plan, as JSON and as a page.

use mae_model::Precision;
use serde::Serialize;

use super::pace::{Bound, Pace};
use crate::table;
use crate::units::{duration, show_bytes, show_flop};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) model: Model,
    pub(super) machines: Machines,
    pub(super) batch: Batch,
    /// Floating-point operations, as `mae bench step` counts them.
    pub(super) flop: Flop,
    /// Bytes of a GPU.
    pub(super) memory: Memory,
    /// Of a node.
    pub(super) loader: LoaderNeeds,
    /// Of an update, part by part.
    pub(super) seconds: Pace,
    pub(super) step_seconds: f64,
    pub(super) images_per_second: f64,
    pub(super) hours: f64,
    pub(super) bound: Bound,
}

#[derive(Debug, Serialize)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) parameters: usize,
    pub(super) image_size: (usize, usize),
    pub(super) visible_patches: usize,
    pub(super) removed_patches: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Machines {
    pub(super) gpu: Option<&'static str>,
    /// Of a node.
    pub(super) gpus: u64,
    pub(super) nodes: u64,
    pub(super) precision: Precision,
    /// Of a GPU's products.
    pub(super) flop_per_second: f64,
    pub(super) utilisation: f64,
    /// A GPU's inside a node, a node's to others.
    pub(super) all_reduce_bytes_per_second: [f64; 2],
}

#[derive(Debug, Serialize)]
pub(super) struct Batch {
    pub(super) images_per_gpu: u64,
    pub(super) accum_iter: u64,
    /// Of an update.
    pub(super) images: u64,
    pub(super) steps_per_epoch: u64,
    pub(super) epochs: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Flop {
    pub(super) image_forward: f64,
    pub(super) image_backward: f64,
    pub(super) image: f64,
    /// Besides those, with activation checkpointing.
    pub(super) image_recomputed: f64,
    pub(super) step: f64,
    pub(super) run: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) weights: u64,
    pub(super) low: u64,
    pub(super) gradients: u64,
    pub(super) moments: u64,
    /// With scratch, and the images themselves.
    pub(super) activations: u64,
    pub(super) apart: u64,
    pub(super) total: u64,
    pub(super) gpu: u64,
    pub(super) largest_batch: usize,
    pub(super) largest_batch_checkpointing: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct LoaderNeeds {
    pub(super) images_per_core: f64,
    pub(super) measured: String,
    /// For the GPUs never to wait.
    pub(super) cores_needed: f64,
    pub(super) cores: usize,
    pub(super) image_bytes: f64,
    pub(super) read_bytes_per_second_needed: f64,
    pub(super) read_bytes_per_second: Option<f64>,
}

/// For a terminal.
pub(super) fn page(report: &Report) -> String {
    let Report {
        model,
        machines,
        batch,
        flop,
        memory,
        loader,
        seconds,
        ..
    } = report;
    let (height, width) = model.image_size;
    let all = model.visible_patches + model.removed_patches;
    let gpu = machines.gpu.unwrap_or("GPU");
    let nodes = match machines.nodes {
        1 => String::new(),
        nodes => format!("{nodes} × "),
    };
    let head = [
        format!("{}, {height} × {width} pixels", model.name),
        format!("{nodes}{} × {gpu}, {}", machines.gpus, machines.precision),
    ];
    let ms = |seconds: f64| format!("{:.1}", seconds * 1e3);
    let rate = |bytes: f64| format!("{}/s", show_bytes(bytes.round() as u64));
    let percent = |share: f64| format!("{:.0}%", share * 100.0);
    let sum = &seconds.all_reduce;
    let hidden = match sum.seconds > 0.0 {
        true => percent(sum.hidden_seconds / sum.seconds),
        false => "–".to_owned(),
    };
    let [inside, between] = machines.all_reduce_bytes_per_second;
    let links = match machines.nodes {
        1 => rate(inside),
        _ => format!("{}, {}", rate(inside), rate(between)),
    };
    let rows = [
        (
            "parameters",
            format!("{:.1} M", model.parameters as f64 / 1e6),
        ),
        (
            "visible patches",
            format!("{} of {all}", model.visible_patches),
        ),
        ("images an update", batch.images.to_string()),
        (
            "updates",
            format!("{} × {}", batch.epochs, batch.steps_per_epoch),
        ),
        ("operations an image", show_flop(flop.image)),
        (
            "  computed again",
            match flop.image_recomputed {
                0.0 => "–".to_owned(),
                again => show_flop(again),
            },
        ),
        ("  an update", show_flop(flop.step)),
        ("  the run", show_flop(flop.run)),
        ("memory of a GPU", show_bytes(memory.gpu)),
        ("  weights", show_bytes(memory.weights)),
        ("  their bfloat16 copy", show_bytes(memory.low)),
        ("  gradients", show_bytes(memory.gradients)),
        ("  moments", show_bytes(memory.moments)),
        ("  activations and images", show_bytes(memory.activations)),
        ("  apart from those", show_bytes(memory.apart)),
        ("  all of these", show_bytes(memory.total)),
        ("largest batch of a GPU", memory.largest_batch.to_string()),
        (
            "  with activation checkpointing",
            memory.largest_batch_checkpointing.to_string(),
        ),
        (
            "all-reduce, sent by each GPU an update",
            show_bytes(sum.bytes as u64),
        ),
        ("  at", links),
        ("  ms", ms(sum.seconds)),
        ("  behind the backward pass", hidden),
        ("ms an update", ms(report.step_seconds)),
        ("  compute", ms(seconds.compute)),
        ("  all-reduce that is not hidden", ms(sum.exposed())),
        ("  loader: decoding", ms(seconds.decoding)),
        (
            "  loader: reading",
            seconds.reading.map_or_else(|| "–".to_owned(), ms),
        ),
        (
            "loader, img/s a core",
            format!("{:.0}", loader.images_per_core),
        ),
        (
            "  cores that a node needs",
            format!("{:.0}", loader.cores_needed.ceil()),
        ),
        ("  cores that it has", loader.cores.to_string()),
        (
            "  reading that a node needs",
            rate(loader.read_bytes_per_second_needed),
        ),
        ("img/s", format!("{:.0}", report.images_per_second)),
        ("the run", duration(report.hours * 3600.0)),
    ]
    .map(|(name, value)| vec![name.to_owned(), value]);
    format!(
        "{}\n{}\nimg/s a core: {}. All about GPUs is computed, not measured: {} × {}/s, and gradients that are summed piece by \
         piece during the backward pass.\n",
        table::text(&head, &rows),
        report.sentence(),
        loader.measured,
        machines.utilisation,
        show_flop(machines.flop_per_second),
    )
}

impl Report {
    /// What binds, and what to change.
    fn sentence(&self) -> String {
        let (seconds, memory, loader) = (&self.seconds, &self.memory, &self.loader);
        let share = |part: f64| format!("{:.0}%", part / self.step_seconds * 100.0);
        let waiting = share(self.step_seconds - seconds.gpu());
        let prepare = "prepare the images (mae shard SRC DST --short-side 256 --quality 90)";
        match self.bound {
            Bound::Memory => {
                let fits = match (memory.largest_batch, memory.largest_batch_checkpointing) {
                    (0, 0) => {
                        return format!(
                            "Memory binds: not one image fits beside {} of weights, gradients and moments. Take a GPU with more memory, \
                         or --shard-optimizer on several.",
                            show_bytes(memory.total - memory.activations)
                        );
                    }
                    (0, checkpointing) => {
                        format!(
                            "--activation-checkpointing and --batch-size {checkpointing} at most"
                        )
                    }
                    (plain, checkpointing) => format!(
                        "--batch-size {plain} at most, or {checkpointing} with --activation-checkpointing, and --accum-iter to make up \
                         for it"
                    ),
                };
                format!(
                    "Memory binds: a batch of {} takes {} of {}. Take {fits}.",
                    self.batch.images_per_gpu,
                    show_bytes(memory.total),
                    show_bytes(memory.gpu)
                )
            }
            Bound::Compute => {
                let exposed = seconds.all_reduce.exposed();
                let sum = match exposed > 0.01 * self.step_seconds {
                    true => format!(
                        " {} of an update is all-reduce that nothing hides: --accum-iter or larger batches make it rarer.",
                        share(exposed)
                    ),
                    false => String::new(),
                };
                format!(
                    "Compute binds: the loader needs {} of an update's time. More GPUs, or a smaller decoder (--decoder-depth), make the \
                     run shorter.{sum}",
                    share(seconds.decoding.max(seconds.reading.unwrap_or(0.0)))
                )
            }
            Bound::AllReduce => format!(
                "The all-reduce binds: the GPUs wait for it {} of the time. Raise --accum-iter or --batch-size so that there are fewer \
                 updates, or take a faster network.",
                share(seconds.all_reduce.exposed())
            ),
            Bound::Decoding => format!(
                "Decoding binds: a node needs {:.0} cores and has {}, so the GPUs wait {waiting} of the time. Take more cores, {prepare}, \
                 raise --repeats{}.",
                loader.cores_needed.ceil(),
                loader.cores,
                match cfg!(feature = "turbo") {
                    true => "",
                    false => ", or build with the feature turbo",
                }
            ),
            Bound::Reading => format!(
                "Reading binds: a node needs {}/s, so the GPUs wait {waiting} of the time. Take faster storage, {prepare}, or raise \
                 --repeats.",
                show_bytes(loader.read_bytes_per_second_needed.round() as u64)
            ),
        }
    }
}

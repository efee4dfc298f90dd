//! An evaluation's result, for people and for programs.

use std::io::{self, Write};

use mae_trainer::eval::Accuracy;
use mae_trainer::eval::linear_probe::{ProbeReport, SweepReport};
use mae_trainer::eval::loss::LossReport;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Outcome, table};

/// A result and what it was measured on.
pub(super) struct Report {
    pub(super) evaluation: &'static str,
    pub(super) checkpoint: String,
    /// Where it is a run of ours.
    pub(super) step: Option<u64>,
    /// Samples that were fitted or compared with, where there are such.
    pub(super) train_samples: Option<u64>,
    /// Samples that were judged.
    pub(super) samples: u64,
    pub(super) settings: Vec<(&'static str, Value)>,
    pub(super) rows: Vec<Row>,
}

/// One encoder's figures.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) figures: Figures,
}

/// What was measured.
pub(super) enum Figures {
    /// At each mask ratio.
    Loss(Vec<(f64, LossReport)>),
    /// For each number of neighbours.
    Knn(Vec<(usize, Accuracy)>),
    Probe(ProbeReport),
    Sweep(SweepReport),
}

/// A row of the table: each column's name, and the figure as people read it.
type Columns = Vec<(&'static str, String)>;

impl Figures {
    /// The table's rows, one or more.
    fn rows(&self) -> Vec<Columns> {
        match self {
            Self::Loss(by_ratio) => by_ratio
                .iter()
                .map(|(ratio, loss)| {
                    let error = Some(loss.standard_error).filter(|error| error.is_finite());
                    vec![
                        ("mask ratio", ratio.to_string()),
                        ("loss", format!("{:.4}", loss.mean)),
                        (
                            "standard error",
                            error.map_or("–".into(), |error| format!("{error:.4}")),
                        ),
                        ("samples", loss.count.to_string()),
                    ]
                })
                .collect(),
            Self::Knn(by_k) => by_k
                .iter()
                .map(|(k, accuracy)| {
                    let k = vec![("k", k.to_string())];
                    k.into_iter().chain(accuracy_columns(accuracy)).collect()
                })
                .collect(),
            Self::Probe(probe) => {
                let mut columns = accuracy_columns(&probe.accuracy).to_vec();
                columns.push(("best top-1", percent(probe.best.top1)));
                columns.push(("in epoch", probe.best_epoch.to_string()));
                columns.push(("train loss", format!("{:.4}", probe.train_loss)));
                vec![columns]
            }
            Self::Sweep(sweep) => {
                let mut columns = accuracy_columns(&sweep.accuracy).to_vec();
                columns.push(("top-1 on train", percent(sweep.train.top1)));
                columns.push(("learning rate", sweep.learning_rate.to_string()));
                vec![columns]
            }
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Loss(by_ratio) => by_ratio
                .iter()
                .map(|(ratio, loss)| with(loss, json!({ "mask_ratio": ratio })))
                .collect(),
            Self::Knn(by_k) => by_k
                .iter()
                .map(|(k, accuracy)| with(accuracy, json!({ "k": k })))
                .collect(),
            Self::Probe(probe) => {
                let best = with(&probe.best, json!({ "epoch": probe.best_epoch }));
                let more = json!({ "best": best, "train_loss": probe.train_loss });
                with(&probe.accuracy, more)
            }
            Self::Sweep(sweep) => {
                let more = json!({
                    "train_top1": sweep.train.top1,
                    "learning_rate": sweep.learning_rate,
                });
                with(&sweep.accuracy, more)
            }
        }
    }
}

/// The fields of `figures` and some more.
fn with(figures: &impl Serialize, more: Value) -> Value {
    let mut all = json!(figures);
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}

fn accuracy_columns(accuracy: &Accuracy) -> [(&'static str, String); 3] {
    let column = |share, (low, high): (f64, f64)| {
        format!(
            "{} [{:.1}, {:.1}]",
            percent(share),
            100.0 * low,
            100.0 * high
        )
    };
    [
        ("top-1", column(accuracy.top1, accuracy.top1_interval)),
        ("top-5", column(accuracy.top5, accuracy.top5_interval)),
        ("samples", accuracy.count.to_string()),
    ]
}

/// A share in percent, with one decimal.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

impl Report {
    /// Prints to stdout.
    pub(super) fn print(&self, as_json: bool) -> anyhow::Result<Outcome> {
        let text = if as_json {
            format!("{}\n", self.json())
        } else {
            self.text()
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(Outcome::Done)
    }

    fn json(&self) -> Value {
        let mut results = serde_json::Map::new();
        for row in &self.rows {
            results.insert(row.name.replace(' ', "_"), row.figures.json());
        }
        let settings: serde_json::Map<String, Value> = self
            .settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        json!({
            "evaluation": self.evaluation,
            "checkpoint": self.checkpoint,
            "step": self.step,
            "train_samples": self.train_samples,
            "samples": self.samples,
            "settings": settings,
            "results": results,
        })
    }

    fn text(&self) -> String {
        let on = match self.train_samples {
            Some(train) => format!("{} samples, fitted on {train}", self.samples),
            None => format!("{} samples", self.samples),
        };
        let settings: Vec<String> = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name} {}", plain(value)))
            .collect();
        let columns: Vec<(&str, Columns)> = self
            .rows
            .iter()
            .flat_map(|row| {
                let rows = row.figures.rows().into_iter();
                rows.map(|columns| (row.name, columns))
            })
            .collect();
        let names = columns.iter().take(1).flat_map(|(_, columns)| columns);
        let head = std::iter::once(String::new()).chain(names.map(|(name, _)| (*name).to_owned()));
        let head: Vec<String> = head.collect();
        let rows: Vec<Vec<String>> = columns
            .into_iter()
            .map(|(name, columns)| {
                let cells = columns.into_iter().map(|(_, cell)| cell);
                std::iter::once(name.to_owned()).chain(cells).collect()
            })
            .collect();
        let note = match self.rows.first().map(|row| &row.figures) {
            None | Some(Figures::Loss(_)) => "",
            _ => "\nIn brackets: 95% confidence intervals (Wilson).\n",
        };
        let step = self
            .step
            .map_or(String::new(), |step| format!(" (step {step})"));
        format!(
            "{} of {}{step} on {on}\n{}\n\n{}{note}",
            self.evaluation,
            self.checkpoint,
            settings.join(", "),
            table::text(&head, &rows)
        )
    }
}

/// A value without JSON's quotes.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let figures = |top1| {
            let by_k = [10, 20].map(|k| (k, Accuracy::new(top1 + k, 200, 200)));
            Figures::Knn(by_k.to_vec())
        };
        Report {
            evaluation: "knn",
            checkpoint: "runs/a".into(),
            step: Some(7),
            train_samples: Some(800),
            samples: 200,
            settings: vec![("temperature", 0.07.into()), ("pooling", "mean".into())],
            rows: vec![
                Row {
                    name: "checkpoint",
                    figures: figures(80),
                },
                Row {
                    name: "random weights",
                    figures: figures(1),
                },
            ],
        }
    }

    #[test]
    fn people_see_both_encoders_and_the_counts() {
        let text = report().text();
        assert!(
            text.contains("knn of runs/a (step 7) on 200 samples, fitted on 800"),
            "{text}"
        );
        assert!(text.contains("temperature 0.07, pooling mean"), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for row in [
            "checkpoint 20 50.0% [43.1, 56.9] 100.0% [98.1, 100.0] 200",
            "random weights 20 10.5% [7.0, 15.5] 100.0% [98.1, 100.0] 200",
        ] {
            assert!(words.contains(row), "{text}");
        }
        assert!(text.contains("Wilson"), "{text}");
    }

    #[test]
    fn losses_stand_by_their_mask_ratio() {
        let loss = |mean, standard_error| LossReport {
            mean,
            standard_error,
            count: 1,
        };
        let figures = Figures::Loss(vec![(0.5, loss(0.25, 0.01)), (0.9, loss(0.75, f64::NAN))]);
        let cells: Vec<Vec<String>> = figures
            .rows()
            .into_iter()
            .map(|row| row.into_iter().map(|(_, cell)| cell).collect())
            .collect();
        assert_eq!(
            cells,
            [
                ["0.5", "0.2500", "0.0100", "1"],
                ["0.9", "0.7500", "–", "1"]
            ]
        );
        let json = figures.json();
        assert_eq!(
            (&json[1]["mask_ratio"], &json[1]["mean"]),
            (&0.9.into(), &0.75.into())
        );
    }

    #[test]
    fn programs_find_results_by_name() {
        let json = report().json();
        let random = &json["results"]["random_weights"];
        assert_eq!(
            (&random[1]["k"], &random[1]["top1"]),
            (&20.into(), &0.105.into())
        );
        assert!(random[1]["top1_interval"][0].as_f64() < Some(0.105));
        assert_eq!(json["results"]["checkpoint"][0]["count"], 200);
        assert_eq!(json["settings"]["temperature"], 0.07);
    }
}

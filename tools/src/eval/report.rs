//! An evaluation's result, for people and for programs.

use std::io::{self, Write};

use mae_trainer::eval::Accuracy;
use mae_trainer::eval::linear_probe::ProbeReport;
use mae_trainer::eval::loss::LossReport;
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
    Loss(LossReport),
    Accuracy(Accuracy),
    Probe(ProbeReport),
}

impl Figures {
    /// Column by column: its name, and the figure as people read it.
    fn columns(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Loss(loss) => vec![
                ("loss", format!("{:.4}", loss.mean)),
                ("standard error", format!("{:.4}", loss.standard_error)),
                ("samples", loss.count.to_string()),
            ],
            Self::Accuracy(accuracy) => accuracy_columns(accuracy).to_vec(),
            Self::Probe(probe) => {
                let mut columns = accuracy_columns(&probe.accuracy).to_vec();
                columns.push(("top-1 on train", percent(probe.train.top1)));
                columns.push(("penalty", probe.penalty.to_string()));
                columns
            }
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Loss(loss) => json!(loss),
            Self::Accuracy(accuracy) => json!(accuracy),
            Self::Probe(probe) => json!({
                "top1": probe.accuracy.top1,
                "top5": probe.accuracy.top5,
                "count": probe.accuracy.count,
                "train_top1": probe.train.top1,
                "penalty": probe.penalty,
            }),
        }
    }
}

fn accuracy_columns(accuracy: &Accuracy) -> [(&'static str, String); 3] {
    [
        ("top-1", percent(accuracy.top1)),
        ("top-5", percent(accuracy.top5)),
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
        let columns: Vec<Vec<(&'static str, String)>> =
            self.rows.iter().map(|row| row.figures.columns()).collect();
        let head: Vec<String> = std::iter::once(String::new())
            .chain(
                columns
                    .iter()
                    .take(1)
                    .flatten()
                    .map(|(name, _)| (*name).to_owned()),
            )
            .collect();
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .zip(columns)
            .map(|(row, columns)| {
                std::iter::once(row.name.to_owned())
                    .chain(columns.into_iter().map(|(_, cell)| cell))
                    .collect()
            })
            .collect();
        let step = self
            .step
            .map_or(String::new(), |step| format!(" (step {step})"));
        format!(
            "{} of {}{step} on {on}\n{}\n\n{}",
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
        let accuracy = |top1| {
            Figures::Accuracy(Accuracy {
                top1,
                top5: 1.0,
                count: 200,
            })
        };
        Report {
            evaluation: "knn",
            checkpoint: "runs/a".into(),
            step: Some(7),
            train_samples: Some(800),
            samples: 200,
            settings: vec![("k", 20.into()), ("pooling", "mean".into())],
            rows: vec![
                Row {
                    name: "checkpoint",
                    figures: accuracy(0.5),
                },
                Row {
                    name: "random weights",
                    figures: accuracy(0.105),
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
        assert!(text.contains("k 20, pooling mean"), "{text}");
        assert!(
            text.contains("random weights  10.5%  100.0%      200"),
            "{text}"
        );
    }

    #[test]
    fn programs_find_results_by_name() {
        let json = report().json();
        assert_eq!(json["results"]["random_weights"]["top1"], 0.105);
        assert_eq!(json["results"]["checkpoint"]["count"], 200);
        assert_eq!(json["settings"]["k"], 20);
    }
}

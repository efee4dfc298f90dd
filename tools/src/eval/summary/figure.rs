//! What is known of a checkpoint after all protocols, for the page and for programs.

use mae_trainer::eval::Accuracy;
use mae_trainer::eval::loss::LossReport;
use mae_trainer::eval::reconstruct::Shown;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::args::Protocol;

/// How many standard deviations either side hold 95% of a normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A measured number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    #[serde(skip)]
    pub(super) protocol: Protocol,
    /// As programs call it, within its protocol.
    #[serde(skip)]
    pub(super) key: &'static str,
    /// As people call it.
    #[serde(skip)]
    pub(super) name: &'static str,
    pub(super) value: f64,
    /// 95% confidence.
    pub(super) interval: (f64, f64),
    pub(super) higher_is_better: bool,
    /// Images that were judged.
    pub(super) count: usize,
}

/// A checkpoint and all that was measured of it.
#[derive(Debug)]
pub(super) struct Judged {
    /// As the page calls it.
    pub(super) name: String,
    pub(super) checkpoint: String,
    /// Updates done, where that is known.
    pub(super) step: Option<u64>,
    /// Of the encoder.
    pub(super) parameters: usize,
    /// Whether its loss is on patches normalised one by one, where it has a decoder.
    pub(super) norm_pix_loss: Option<bool>,
    /// What its loss is of, where it has a decoder.
    pub(super) target: Option<String>,
    /// How the patches that it sees are chosen, where it has a decoder.
    pub(super) mask_sampling: Option<String>,
    /// In the order of the protocols.
    pub(super) figures: Vec<Figure>,
    pub(super) shown: Vec<Shown>,
    /// Protocols that did not come to a result, and why.
    pub(super) failures: Vec<(Protocol, String)>,
}

impl Figure {
    /// Mean and normal interval.
    pub(super) fn of_loss(loss: &LossReport) -> Self {
        let reach = Z * loss.standard_error;
        Self {
            protocol: Protocol::Loss,
            key: "loss",
            name: "masked loss",
            value: loss.mean,
            interval: (loss.mean - reach, loss.mean + reach),
            higher_is_better: false,
            count: loss.count,
        }
    }

    /// Top-1 and top-5 with Wilson's intervals.
    pub(super) fn of_accuracy(protocol: Protocol, accuracy: &Accuracy) -> [Self; 2] {
        let (top1, top5) = match protocol {
            Protocol::Knn => ("kNN top-1", "kNN top-5"),
            _ => ("linear probe top-1", "linear probe top-5"),
        };
        [
            ("top1", top1, accuracy.top1, accuracy.top1_interval),
            ("top5", top5, accuracy.top5, accuracy.top5_interval),
        ]
        .map(|(key, name, value, interval)| Self {
            protocol,
            key,
            name,
            value,
            interval,
            higher_is_better: true,
            count: accuracy.count,
        })
    }

    /// Whether it is a share, which people read in percent.
    pub(super) fn is_share(&self) -> bool {
        self.protocol != Protocol::Loss
    }

    /// With its interval, as people read it.
    pub(super) fn text(&self) -> String {
        let (low, high) = self.interval;
        if self.is_share() {
            format!(
                "{:.1}% [{:.1}, {:.1}]",
                100.0 * self.value,
                100.0 * low,
                100.0 * high
            )
        } else if low.is_finite() {
            format!("{:.4} [{low:.4}, {high:.4}]", self.value)
        } else {
            format!("{:.4}", self.value)
        }
    }
}

impl Judged {
    /// The figure `key` of `protocol`, if it was measured.
    pub(super) fn figure(&self, protocol: Protocol, key: &str) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.protocol == protocol && figure.key == key)
    }

    /// Figures by protocol and key; a protocol that failed has its reason.
    pub(super) fn json(&self) -> Value {
        let mut results: Map<String, Value> = Map::new();
        for figure in &self.figures {
            let of_protocol = results
                .entry(figure.protocol.name())
                .or_insert_with(|| json!({}));
            of_protocol[figure.key] = json!(figure);
        }
        for (protocol, reason) in &self.failures {
            results.insert(protocol.name().to_owned(), json!({ "failed": reason }));
        }
        json!({
            "name": self.name,
            "checkpoint": self.checkpoint,
            "step": self.step,
            "encoder_parameters": self.parameters,
            "norm_pix_loss": self.norm_pix_loss,
            "target": self.target,
            "mask_sampling": self.mask_sampling,
            "results": results,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Someone with a loss, and a kNN accuracy of `top1` of 200.
    pub(in crate::eval::summary) fn judged(name: &str, top1: f64) -> Judged {
        let loss = Figure::of_loss(&LossReport {
            mean: 0.5,
            standard_error: 0.01,
            count: 200,
        });
        let accuracy = Accuracy::new((200.0 * top1) as usize, 200, 200);
        let figures = Figure::of_accuracy(Protocol::Knn, &accuracy);
        Judged {
            name: name.into(),
            checkpoint: format!("{name}/checkpoints/step-7"),
            step: Some(7),
            parameters: 12345,
            norm_pix_loss: Some(true),
            target: Some("pixels normalised patch by patch".into()),
            mask_sampling: Some("random".into()),
            figures: [loss].into_iter().chain(figures).collect(),
            shown: vec![],
            failures: vec![(Protocol::LinearProbe, "no <labels>".into())],
        }
    }

    #[test]
    fn intervals_are_those_of_the_textbook() {
        let judged = judged("a", 0.5);
        let texts: Vec<String> = judged.figures.iter().map(Figure::text).collect();
        assert_eq!(
            texts,
            [
                "0.5000 [0.4804, 0.5196]",
                "50.0% [43.1, 56.9]",
                "100.0% [98.1, 100.0]"
            ]
        );
    }

    #[test]
    fn programs_find_figures_by_protocol_and_reasons_in_their_place() {
        let json = judged("a", 0.5).json();
        let knn = &json["results"]["knn"]["top1"];
        assert_eq!((&knn["value"], &knn["count"]), (&0.5.into(), &200.into()));
        assert_eq!(knn["higher_is_better"], true);
        assert_eq!(json["results"]["loss"]["loss"]["higher_is_better"], false);
        assert_eq!(json["results"]["linear-probe"]["failed"], "no <labels>");
    }
}

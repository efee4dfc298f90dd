//! The figures of a run as a page that Prometheus reads.
//!
//! What each says is here, what it is served by in [`server`]. The format is `prometheus-client`'s: the text format, which every
//! scraper reads.

mod server;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use self::server::{Answer, Server};
use crate::config::ListenAddress;
use crate::error::{Error, Result};
use crate::metrics::log::{EpochLine, StepLine};
use crate::observer::StepReport;

/// What the page says; what is not known yet, or never, is left out.
#[derive(Debug, Default)]
struct Figures {
    step: u64,
    images: u64,
    bad_samples: u64,
    epoch: Option<f64>,
    loss: Option<f64>,
    lr: Option<f64>,
    grad_norm: Option<f64>,
    images_per_second: Option<f64>,
    data_wait: Option<f64>,
    host_memory: Option<u64>,
    device_memory: Option<u64>,
    held_out_loss: Option<f64>,
    checkpoint_step: Option<u64>,
}

/// The page of a run, served until it is dropped; of nothing, where it was not asked for.
#[derive(Debug, Default)]
pub(crate) struct Page(Option<(Arc<Shared>, Server)>);

#[derive(Debug, Default)]
struct Shared(Mutex<Figures>);

impl Page {
    /// Serves a page at `address`, if there is one, and says where.
    ///
    /// # Errors
    /// [`Error::Listen`] where the address is taken or not of this machine.
    pub(crate) fn serve(address: Option<ListenAddress>) -> Result<Self> {
        let Some(address) = address else {
            return Ok(Self::default());
        };
        let shared = Arc::<Shared>::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&shared)));
        let page = move || {
            let mut text = String::new();
            prometheus_text::encode(&mut text, &registry).ok()?;
            Some(Answer {
                kind: prometheus_text::CONTENT_TYPE,
                text,
            })
        };
        let server =
            Server::start(address.0, page).map_err(|source| Error::Listen { address, source })?;
        tracing::info!("for Prometheus: http://{}/metrics", server.address());
        Ok(Self(Some((shared, server))))
    }

    /// The run goes on after `step` updates, in which so many samples were bad.
    pub(crate) fn begin(&self, step: u64, bad_samples: u64) {
        self.change(|figures| {
            figures.step = step;
            figures.bad_samples = bad_samples;
        });
    }

    /// An update is done.
    pub(crate) fn step(&self, report: &StepReport) {
        self.change(|figures| {
            figures.step = report.step;
            // All updates have as many.
            figures.images = report.step * report.images;
            figures.loss = Some(report.loss);
            figures.lr = Some(report.lr);
        });
    }

    /// An update is logged.
    pub(crate) fn logged(&self, line: &StepLine) {
        self.change(|figures| {
            figures.epoch = Some(line.epoch);
            figures.bad_samples = line.bad_samples;
            figures.grad_norm = line.grad_norm;
            figures.images_per_second = Some(line.images_per_second);
            figures.data_wait = Some(line.data_wait);
            figures.host_memory = line.host_memory;
            figures.device_memory = line.device_memory;
        });
    }

    /// An epoch is done.
    pub(crate) fn epoch(&self, line: &EpochLine) {
        self.change(|figures| figures.held_out_loss = line.val_loss.or(figures.held_out_loss));
    }

    /// A checkpoint stands.
    pub(crate) fn saved(&self, step: u64) {
        self.change(|figures| figures.checkpoint_step = Some(step));
    }

    fn change(&self, change: impl FnOnce(&mut Figures)) {
        if let Some((shared, _)) = &self.0 {
            change(&mut shared.figures());
        }
    }
}

impl Shared {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Shared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = self.figures();
        let whole = |number: Option<u64>| number.map(|number| number as f64);
        // The format gives each counter its `_total`.
        for (name, help, count) in [
            (
                "mae_images",
                "Images trained on since the run's start",
                figures.images,
            ),
            (
                "mae_bad_samples",
                "Samples that could not be used and were replaced, since the run's start",
                figures.bad_samples,
            ),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        for (name, help, value) in [
            ("mae_step", "Updates done", Some(figures.step as f64)),
            ("mae_epoch", "Epochs done, as a fraction", figures.epoch),
            ("mae_loss", "Loss of the last update", figures.loss),
            ("mae_lr", "Learning rate of the last update", figures.lr),
            (
                "mae_grad_norm",
                "Norm of the gradient before clipping, where it is clipped",
                figures.grad_norm,
            ),
            (
                "mae_images_per_second",
                "Images a second between the last two lines of the log",
                figures.images_per_second,
            ),
            (
                "mae_data_wait_ratio",
                "Share of the time between these lines spent waiting for data",
                figures.data_wait,
            ),
            (
                "mae_memory_host_bytes",
                "Bytes of the process in the machine's memory",
                whole(figures.host_memory),
            ),
            (
                "mae_memory_device_bytes",
                "Bytes in use on the GPU, by every process",
                whole(figures.device_memory),
            ),
            (
                "mae_held_out_loss",
                "Loss on held-out data, when last measured",
                figures.held_out_loss,
            ),
            (
                "mae_checkpoint_step",
                "Updates done at the last checkpoint of this part of the run",
                whole(figures.checkpoint_step),
            ),
        ] {
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(
                    name,
                    help,
                    None,
                    gauge.metric_type(),
                )?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    fn ask(page: &Page, request: &str) -> String {
        let (_, server) = page.0.as_ref().unwrap();
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn any_port() -> Page {
        Page::serve(Some("0".parse().unwrap())).unwrap()
    }

    #[test]
    fn the_page_has_what_is_known() {
        let page = any_port();
        page.begin(40, 3);
        let fresh = ask(&page, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(fresh.starts_with("HTTP/1.1 200 OK\r\n"), "{fresh}");
        assert!(fresh.contains("\nmae_step 40"), "{fresh}");
        assert!(!fresh.contains("mae_loss"), "{fresh}");
        page.step(&StepReport {
            step: 41,
            epoch: 1,
            loss: f64::NAN,
            lr: 1e-3,
            images: 256,
            took: Duration::ZERO,
            waited: Duration::ZERO,
        });
        page.saved(41);
        let text = ask(&page, "GET /metrics?x=1 HTTP/1.0\r\n\r\n");
        for part in [
            "# HELP mae_images_total Images trained on since the run's start\n# TYPE mae_images_total counter\nmae_images_total 10496\n",
            "# TYPE mae_loss gauge\nmae_loss NaN\n",
            "\nmae_lr 0.001\n",
            "\nmae_bad_samples_total 3\n",
            "\nmae_checkpoint_step 41",
            "\r\nContent-Type: text/plain; version=0.0.4",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = format!("Content-Length: {}\r\n", body.len());
        assert!(format!("{head}\r\n").contains(&length), "{head}");
    }

    #[test]
    fn nothing_else_is_served() {
        let page = any_port();
        for request in [
            "GET / HTTP/1.1\r\n\r\n",
            "POST /metrics HTTP/1.1\r\n\r\n",
            "\r\n\r\n",
        ] {
            let said = ask(&page, request);
            assert!(said.starts_with("HTTP/1.1 404 "), "{request}: {said}");
        }
        // One byte too many, so that all is read before the answer.
        let long = format!("{:x<8193}", "GET /metrics HTTP/1.1\r\nX: ");
        let said = ask(&page, &long);
        assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    }

    #[test]
    fn an_address_is_taken_once_and_free_again_afterwards() {
        let page = any_port();
        let (_, server) = page.0.as_ref().unwrap();
        let address = ListenAddress(server.address());
        let said = Page::serve(Some(address)).unwrap_err().to_string();
        assert!(
            said.contains(&address.to_string()) && said.contains("--prometheus"),
            "{said}"
        );
        drop(page);
        Page::serve(Some(address)).unwrap();
        Page::serve(None).unwrap().begin(1, 0);
    }

    #[test]
    fn who_says_nothing_holds_up_nobody_for_long() {
        let page = any_port();
        let (_, server) = page.0.as_ref().unwrap();
        let silent = TcpStream::connect(server.address()).unwrap();
        let text = ask(&page, "GET /metrics HTTP/1.1\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        drop(silent);
    }
}

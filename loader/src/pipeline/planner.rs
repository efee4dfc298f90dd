//! The planner: gives every place a slot, in order.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam::channel::{Receiver, Sender, select_biased};

use super::Samples;
use super::worker::Job;
use crate::batch::{Buffers, Finished};
use crate::config::Settings;
use crate::mix::order::MixedOrder;
use crate::order::Cursor;
use crate::sample::SampleId;

/// Walks through the epochs from a cursor on.
pub(super) struct Planner {
    pub(super) order: MixedOrder,
    pub(super) samples: Arc<dyn Samples>,
    pub(super) settings: Arc<Settings>,
    pub(super) from: Cursor,
    /// Memory for batches: what throttles the whole pipeline.
    pub(super) free: Receiver<Buffers>,
    /// Disconnected when the consumer goes away.
    pub(super) stop: Receiver<()>,
    /// Set when the consumer goes away: what was announced is not read any more.
    pub(super) unwanted: Arc<AtomicBool>,
    pub(super) jobs: Sender<Job>,
    pub(super) finished: Sender<Finished>,
}

impl Planner {
    /// Queues jobs until the last epoch is planned or the consumer goes away.
    pub(super) fn run(self) {
        let slices = self.settings.slices;
        let mut cursor = slices.normalise(self.from);
        let mut sequence = 0;
        let mut order = self.order.walk();
        while cursor.epoch < self.settings.epochs {
            let epoch = cursor.epoch;
            while cursor.epoch == epoch {
                let Some(buffers) = self.next_free() else {
                    return;
                };
                let places = slices.places(cursor.step);
                let length = (places.end - places.start) as usize;
                if length == 0 {
                    if self
                        .finished
                        .send(buffers.finished_empty(sequence, cursor))
                        .is_err()
                    {
                        return;
                    }
                } else {
                    let slots = buffers.open(sequence, cursor, length);
                    let samples: Vec<SampleId> = places
                        .clone()
                        .map(|place| {
                            order
                                .sample(epoch, place)
                                .expect("places end with the samples")
                        })
                        .collect();
                    let announced = self.samples.announce(&samples, &self.unwanted);
                    let announced = samples.into_iter().zip(announced);
                    for ((slot, place), (sample, ahead)) in
                        slots.into_iter().zip(places).zip(announced)
                    {
                        if self
                            .jobs
                            .send(Job {
                                slot,
                                epoch,
                                place,
                                sample,
                                ahead,
                            })
                            .is_err()
                        {
                            return;
                        }
                    }
                }
                sequence += 1;
                cursor = slices.after(cursor);
            }
        }
    }

    fn next_free(&self) -> Option<Buffers> {
        select_biased! {
            recv(self.stop) -> _ => None,
            recv(self.free) -> buffers => buffers.ok(),
        }
    }
}

//! The planner: gives every place a slot, in order.

use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, select_biased};

use super::Samples;
use super::worker::Job;
use crate::batch::{Buffers, Finished};
use crate::config::Settings;
use crate::order::{Cursor, Order};

/// Walks through the epochs from a cursor on.
pub(super) struct Planner {
    pub(super) order: Order,
    pub(super) samples: Arc<dyn Samples>,
    pub(super) settings: Arc<Settings>,
    pub(super) from: Cursor,
    /// Memory for batches: what throttles the whole pipeline.
    pub(super) free: Receiver<Buffers>,
    /// Disconnected when the consumer goes away.
    pub(super) stop: Receiver<()>,
    pub(super) jobs: Sender<Job>,
    pub(super) finished: Sender<Finished>,
}

impl Planner {
    /// Queues jobs until the last epoch is planned or the consumer goes away.
    pub(super) fn run(self) {
        let slices = self.settings.slices;
        let mut cursor = slices.normalise(self.from);
        let mut sequence = 0;
        while cursor.epoch < self.settings.epochs {
            let mut order = self.order.epoch(cursor.epoch);
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
                    for (slot, place) in slots.into_iter().zip(places) {
                        let sample = order.sample(place).expect("places end with the samples");
                        self.samples.will_need(sample);
                        if self
                            .jobs
                            .send(Job {
                                slot,
                                epoch,
                                place,
                                sample,
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

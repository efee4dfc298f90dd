//! Ranks on GPUs, one process each: see [`mae_model::cuda::nccl`].

use std::ops::Range;

use candle_core::{Device, Tensor};
use mae_model::cuda::nccl::{Nccl, unique_id};
use serde_json::Value;

use super::Engine;
use super::launch::Launch;
use super::store::Store;
use crate::error::{Error, Result};

/// See the [module](self).
pub(super) struct NcclEngine(Nccl);

impl NcclEngine {
    /// Of the process that `launch` describes, on `device`; ranks find each other by what rank 0 tells over `store`.
    pub(super) fn new(launch: &Launch, device: &Device, store: &Store) -> Result<Self> {
        let id = match launch.is_first() {
            true => Value::from(unique_id()?),
            false => Value::Null,
        };
        let told = store.gather(id)?.swap_remove(0);
        let id: Vec<u8> = serde_json::from_value(told)
            .map_err(|error| Error::Ranks(format!("rank 0's id of NCCL: {error}")))?;
        Ok(NcclEngine(Nccl::new(
            device,
            &id,
            (launch.rank, launch.world),
        )?))
    }
}

impl Engine for NcclEngine {
    fn begin_sum(&self, flat: &Tensor, range: Range<usize>) -> Result<()> {
        Ok(self.0.begin_sum(flat, range)?)
    }

    fn finish(&self, _: &Tensor) -> Result<()> {
        Ok(self.0.finish()?)
    }

    fn share(&self, flat: &Tensor, ranges: &[Range<usize>]) -> Result<()> {
        Ok(self.0.share(flat, ranges)?)
    }

    fn leave(&mut self) {}
}

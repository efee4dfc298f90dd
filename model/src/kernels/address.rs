//! Where a tensor's numbers stand in the memory of whoever runs the kernels.

use std::cell::Cell;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Storage, Tensor};

use super::message;
use crate::Result;

/// The address of a number, on the device or, for kernels on the host, in its memory.
#[derive(Clone, Copy)]
pub(crate) struct Pointer(pub(crate) u64);

impl Pointer {
    /// So many f32 numbers on.
    pub(super) fn skip(self, numbers: usize) -> Self {
        Self(self.0 + (numbers * size_of::<f32>()) as u64)
    }
}

/// The numbers of a contiguous tensor of this type and length, to be read.
pub(crate) fn input(tensor: &Tensor, dtype: DType, len: usize) -> Result<Pointer> {
    let (storage, layout) = tensor.storage_and_layout();
    let first = check(tensor, layout, dtype, len)?;
    let start = match &*storage {
        Storage::Cpu(storage) => cpu(storage)?,
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => crate::cuda::address(storage)?,
        _ => return Err(unknown()),
    };
    Ok(Pointer(start + first))
}

/// The numbers of a contiguous tensor of this type and length, to be written.
pub(super) fn output(tensor: &Tensor, dtype: DType, len: usize) -> Result<Pointer> {
    let first = check(tensor, tensor.layout(), dtype, len)?;
    let op = AddressOp(Cell::new(0));
    tensor.inplace_op1(&op)?;
    Ok(Pointer(op.0.get() + first))
}

/// Bytes before the first number.
fn check(tensor: &Tensor, layout: &Layout, dtype: DType, len: usize) -> Result<u64> {
    if tensor.dtype() != dtype || tensor.elem_count() != len {
        return Err(message(format!(
            "a kernel wants {len} numbers of {dtype:?}, got {} of {:?}",
            tensor.elem_count(),
            tensor.dtype()
        )));
    }
    match layout.contiguous_offsets() {
        Some((first, _)) => Ok((first * dtype.size_in_bytes()) as u64),
        None => Err(message("a kernel wants contiguous tensors".into())),
    }
}

/// Opens a tensor for writing; the address holds as long as the tensor.
struct AddressOp(Cell<u64>);

impl InplaceOp1 for AddressOp {
    fn name(&self) -> &'static str {
        "mae-address"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        self.0.set(match storage {
            CpuStorage::F32(numbers) => numbers.as_mut_ptr() as u64,
            CpuStorage::BF16(numbers) => numbers.as_mut_ptr() as u64,
            _ => candle_core::bail!("kernels write f32 and bf16 only"),
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &mut candle_core::CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<()> {
        self.0.set(crate::cuda::address_mut(storage)?);
        Ok(())
    }
}

fn cpu(storage: &CpuStorage) -> Result<u64> {
    match storage {
        CpuStorage::U8(numbers) => Ok(numbers.as_ptr() as u64),
        CpuStorage::U32(numbers) => Ok(numbers.as_ptr() as u64),
        CpuStorage::F32(numbers) => Ok(numbers.as_ptr() as u64),
        CpuStorage::BF16(numbers) => Ok(numbers.as_ptr() as u64),
        _ => Err(unknown()),
    }
}

fn unknown() -> crate::Error {
    message("kernels read u8, u32, f32 and bf16 only".into())
}

//! How operations reach the numbers behind tensors on the CPU: shared slices for what they read,
//! exclusive slices for what they write. Candle's storage lock is not re-entrant, so what is read
//! and what is written must not share an allocation; several parts of one flat allocation are
//! written through [`write_parts`].

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, StorageRef, Tensor, WithDType};

use crate::Result;

/// A contiguous tensor's numbers, readable while this lives.
pub(crate) struct Read<'a> {
    guard: StorageRef<'a>,
    range: (usize, usize),
}

/// Opens a contiguous CPU tensor for reading.
pub(crate) fn read(tensor: &Tensor) -> Result<Read<'_>> {
    let (guard, layout) = tensor.storage_and_layout();
    let range = contiguous(layout)?;
    Ok(Read { guard, range })
}

impl Read<'_> {
    /// The numbers in row-major order.
    pub(crate) fn slice<T: WithDType>(&self) -> Result<&[T]> {
        match &*self.guard {
            Storage::Cpu(storage) => Ok(&storage.as_slice::<T>()?[self.range.0..self.range.1]),
            _ => Err(message("this operation has only a CPU side")),
        }
    }

    /// As [`Read::slice`], for the common type.
    pub(crate) fn f32(&self) -> Result<&[f32]> {
        self.slice::<f32>()
    }
}

fn contiguous(layout: &Layout) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(range) => Ok(range),
        None => Err(message("an operation needs contiguous tensors")),
    }
}

fn message(text: &str) -> crate::Error {
    candle_core::Error::Msg(text.into()).into()
}

type Body<'a> = Box<dyn FnOnce(&mut [f32]) -> Result<()> + 'a>;

struct WriteOp<'a> {
    body: Cell<Option<Body<'a>>>,
    error: Cell<Option<crate::Error>>,
}

impl InplaceOp1 for WriteOp<'_> {
    fn name(&self) -> &'static str {
        "mae-write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("an operation needs contiguous tensors");
        };
        let CpuStorage::F32(numbers) = storage else {
            candle_core::bail!("an operation writes f32 tensors only");
        };
        if let Some(Err(error)) = self.body.take().map(|body| body(&mut numbers[start..end])) {
            self.error.set(Some(error));
        }
        Ok(())
    }
}

/// Runs `body` on the exclusive numbers of one contiguous CPU tensor.
pub(crate) fn write<'a>(
    tensor: &Tensor,
    body: impl FnOnce(&mut [f32]) -> Result<()> + 'a,
) -> Result<()> {
    let op = WriteOp {
        body: Cell::new(Some(Box::new(body))),
        error: Cell::new(None),
    };
    tensor.inplace_op1(&op)?;
    op.error.take().map_or(Ok(()), Err)
}

/// Runs `body` on two tensors of different allocations.
pub(crate) fn write2(
    a: &Tensor,
    b: &Tensor,
    body: impl FnOnce(&mut [f32], &mut [f32]) -> Result<()>,
) -> Result<()> {
    write(a, |a| write(b, |b| body(a, b)))
}

/// Runs `body` on disjoint, ascending ranges of one flat tensor.
pub(crate) fn write_parts<const N: usize>(
    flat: &Tensor,
    ranges: [Range<usize>; N],
    body: impl FnOnce([&mut [f32]; N]) -> Result<()>,
) -> Result<()> {
    write(flat, |mut rest| {
        let mut at = 0;
        let mut parts = Vec::with_capacity(N);
        for range in ranges {
            let (_, tail) = rest.split_at_mut(range.start - at);
            let (part, tail) = tail.split_at_mut(range.len());
            parts.push(part);
            rest = tail;
            at = range.end;
        }
        match parts.try_into() {
            Ok(parts) => body(parts),
            Err(_) => unreachable!("as many parts as ranges"),
        }
    })
}

/// Exclusive numbers that threads write at once, each in places of its own.
pub(crate) struct Shared<'a> {
    first: *mut f32,
    len: usize,
    exclusive: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a `&mut [f32]`, which may go to other threads; its only use is unsafe and asks for disjoint ranges.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(numbers: &'a mut [f32]) -> Self {
        Self {
            first: numbers.as_mut_ptr(),
            len: numbers.len(),
            exclusive: PhantomData,
        }
    }

    /// Where a number stands.
    pub(crate) fn pointer(&self, at: usize) -> *mut f32 {
        assert!(at < self.len);
        // SAFETY: inside the slice that this was made of.
        unsafe { self.first.add(at) }
    }

    /// The numbers of a range.
    ///
    /// # Safety
    /// While the slice lives, no other slice of an overlapping range may.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps ranges apart")]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the exclusive slice that this was made of; disjoint from others by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }
}

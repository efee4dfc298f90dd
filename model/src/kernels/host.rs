//! The kernels on the host: for tests.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};

use candle_core::DType;
use half::bf16;

use super::product::{Matrices, Product};
use super::{Arg, message};
use crate::Result;

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "C" {
    fn mae_host_launch(
        name: *const c_char,
        grid: *const u32,
        threads: *const u32,
        shared: u32,
        args: *mut *mut c_void,
        count: usize,
    ) -> i32;
}

/// Runs `body` with the GPU's kernels, compiled for the host, in place of the CPU's operations where there are both. They are slow:
/// one thread stands for all of a GPU's.
pub fn on_host<T>(body: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
    let _restore = Restore(ACTIVE.replace(true));
    body()
}

pub(crate) fn active() -> bool {
    ACTIVE.get()
}

pub(super) fn launch(
    kernel: &str,
    (blocks, threads, shared): (u32, u32, u32),
    args: &[Arg],
) -> Result<()> {
    let mut pointers: Vec<*mut c_void> = args
        .iter()
        .map(|arg| match arg {
            Arg::Word(word) => std::ptr::from_ref(word).cast_mut().cast(),
            Arg::Channels(channels) => std::ptr::from_ref(channels).cast_mut().cast(),
            Arg::AdamW(adamw) => std::ptr::from_ref(&**adamw).cast_mut().cast(),
        })
        .collect();
    let name = CString::new(kernel).map_err(|_| message("a kernel's name has a zero".into()))?;
    let (grid, threads) = ([blocks, 1, 1], [threads, 1, 1]);
    // SAFETY: name, grid, threads and arguments outlive the call; the addresses among the arguments are those of tensors that the
    // caller holds, with the lengths that the kernel's other arguments say.
    let status = unsafe {
        mae_host_launch(
            name.as_ptr(),
            grid.as_ptr(),
            threads.as_ptr(),
            shared,
            pointers.as_mut_ptr(),
            pointers.len(),
        )
    };
    match status {
        0 => Ok(()),
        1 => Err(message(format!("there is no kernel {kernel}"))),
        _ => Err(message(format!(
            "the kernel {kernel} does not take {} arguments",
            args.len()
        ))),
    }
}

/// The product in place of cuBLASLt's: sums in f32, rounded once at the end.
pub(super) fn product(p: Product, at: Matrices) -> Result<()> {
    // SAFETY: the addresses are those of tensors of these types and lengths that the caller holds, and out is no operand.
    let (a, b) = unsafe {
        (
            numbers(at.a, p.m * p.k, p.operands),
            numbers(at.b, p.n * p.k, p.operands),
        )
    };
    let mut out = vec![0f32; p.m * p.n];
    for (i, row) in out.chunks_exact_mut(p.n).enumerate() {
        for k in 0..p.k {
            let x = a[if p.transpose_a {
                k * p.m + i
            } else {
                i * p.k + k
            }];
            for (j, out) in row.iter_mut().enumerate() {
                *out += x * b[if p.transpose_b {
                    j * p.k + k
                } else {
                    k * p.n + j
                }];
            }
        }
    }
    match p.out {
        DType::BF16 => {
            // SAFETY: as above.
            let to = unsafe { std::slice::from_raw_parts_mut(at.out as *mut bf16, p.m * p.n) };
            for (to, x) in to.iter_mut().zip(out) {
                *to = bf16::from_f32(x);
            }
        }
        _ => {
            // SAFETY: as above.
            let to = unsafe { std::slice::from_raw_parts_mut(at.out as *mut f32, p.m * p.n) };
            for (to, x) in to.iter_mut().zip(out) {
                *to = if p.add { *to + x } else { x };
            }
        }
    }
    Ok(())
}

/// # Safety
/// The address is that of so many numbers of this type, f32 or bf16.
unsafe fn numbers(at: u64, len: usize, dtype: DType) -> Vec<f32> {
    // SAFETY: by the caller's promise.
    unsafe {
        match dtype {
            DType::BF16 => std::slice::from_raw_parts(at as *const bf16, len)
                .iter()
                .map(|x| x.to_f32())
                .collect(),
            _ => std::slice::from_raw_parts(at as *const f32, len).to_vec(),
        }
    }
}

//! The kernels on the host: for tests.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};

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

pub(super) fn active() -> bool {
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

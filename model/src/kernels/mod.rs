//! The device's side of the operations: which kernel, on how many blocks, with which arguments. The driver launches them
//! ([`crate::cuda`]), or in tests the host, where the same kernels run as C++ ([`on_host`]).

pub(crate) mod address;
pub(crate) mod attention;
pub(crate) mod augment;
pub(crate) mod elementwise;
pub(crate) mod gelu;
#[cfg(feature = "host-kernels")]
mod host;
pub(crate) mod image;
pub(crate) mod layer_norm;
pub(crate) mod product;
pub(crate) mod reduce;
pub(crate) mod scratch;
pub(crate) mod tokens;
pub(crate) mod update;

use candle_core::{DType, Device, Tensor};

use crate::Result;
use address::Pointer;
#[cfg(feature = "host-kernels")]
pub(crate) use host::active as on_this_thread;
#[cfg(feature = "host-kernels")]
pub use host::on_host;

/// Blocks of a launch whose blocks take whole rows; more rows are dealt out in turn. So many keep today's GPUs full.
const ROW_BLOCKS: usize = 1024;

/// Threads of such a block, four columns each.
fn row_threads(dim: usize) -> Result<usize> {
    if !dim.is_multiple_of(4) || dim > 4096 {
        return Err(message(format!(
            "a GPU takes widths that are multiples of 4, to 4096; this one is {dim}"
        )));
    }
    Ok((dim / 4).next_multiple_of(32))
}

/// Who runs kernels.
pub(crate) enum Engine {
    #[cfg(feature = "cuda")]
    Cuda(candle_core::CudaDevice),
    #[cfg(feature = "host-kernels")]
    Host,
}

/// Who runs kernels on this tensor; `None` leaves it to the CPU's own code.
pub(crate) fn engine(tensor: &Tensor) -> Option<Engine> {
    match tensor.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Some(Engine::Cuda(device.clone())),
        #[cfg(feature = "host-kernels")]
        Device::Cpu if host::active() => Some(Engine::Host),
        _ => None,
    }
}

/// One launch, its arguments in the kernel's order.
struct Launch {
    kernel: String,
    blocks: usize,
    threads: usize,
    /// Bytes of memory that a block's threads share, besides what the kernel itself declares.
    shared: usize,
    args: Vec<Arg>,
}

/// An argument of a kernel.
pub(crate) enum Arg {
    /// Up to eight bytes, the first of a word, as both machines are little-endian.
    Word(u64),
    /// What images are normalised with.
    Channels(Channels),
    /// What AdamW takes in.
    AdamW(Box<update::AdamW>),
}

/// As in `kernels/image.cu`.
#[repr(C)]
pub(crate) struct Channels {
    mean: [f32; 16],
    deviation: [f32; 16],
}

impl Launch {
    fn new(kernel: impl Into<String>, blocks: usize, threads: usize) -> Self {
        let (kernel, args) = (kernel.into(), Vec::new());
        Self {
            kernel,
            blocks,
            threads,
            shared: 0,
            args,
        }
    }

    fn shared(mut self, bytes: usize) -> Self {
        self.shared = bytes;
        self
    }

    fn pointer(mut self, pointer: Pointer) -> Self {
        self.args.push(Arg::Word(pointer.0));
        self
    }

    fn null(mut self) -> Self {
        self.args.push(Arg::Word(0));
        self
    }

    fn float(mut self, x: f32) -> Self {
        self.args.push(Arg::Word(u64::from(x.to_bits())));
        self
    }

    /// An unsigned number of 32 bits.
    fn count(mut self, count: usize) -> Result<Self> {
        self.args.push(Arg::Word(u64::from(word(count)?)));
        Ok(self)
    }

    /// An unsigned number of 64 bits.
    fn long(mut self, count: usize) -> Self {
        self.args.push(Arg::Word(count as u64));
        self
    }

    fn channels(mut self, channels: Channels) -> Self {
        self.args.push(Arg::Channels(channels));
        self
    }

    fn run(self, engine: &Engine) -> Result<()> {
        let size = (word(self.blocks)?, word(self.threads)?, word(self.shared)?);
        match engine {
            #[cfg(feature = "cuda")]
            Engine::Cuda(device) => crate::cuda::launch(device, &self.kernel, size, &self.args),
            #[cfg(feature = "host-kernels")]
            Engine::Host => host::launch(&self.kernel, size, &self.args),
        }
    }
}

fn word(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| {
        message(format!(
            "{count} is too much for a kernel; use a smaller batch"
        ))
    })
}

/// How kernels for a type of number end.
fn suffix(tensor: &Tensor) -> Result<&'static str> {
    match tensor.dtype() {
        DType::F32 => Ok("f32"),
        DType::BF16 => Ok("bf16"),
        other => Err(message(format!("no kernel takes {other:?}"))),
    }
}

fn message(text: String) -> crate::Error {
    candle_core::Error::Msg(text).into()
}

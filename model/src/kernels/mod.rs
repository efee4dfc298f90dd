//! The device's side of the operations: which kernel, on how many blocks, with which arguments. The driver launches them
//! ([`crate::cuda`]), or in tests the host, where the same kernels run as C++ ([`on_host`]).

pub(crate) mod address;
pub(crate) mod attention;
pub(crate) mod augment;
pub(crate) mod classify;
pub(crate) mod elementwise;
pub(crate) mod gelu;
#[cfg(feature = "host-kernels")]
mod host;
pub(crate) mod image;
pub(crate) mod layer_norm;
pub(crate) mod product;
pub(crate) mod reduce;
pub(crate) mod scratch;
pub(crate) mod target;
pub(crate) mod tokens;
pub(crate) mod update;

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
use candle_core::{DType, Device, Tensor};

use crate::Result;
use address::Pointer;
#[cfg(feature = "host-kernels")]
pub(crate) use host::active as on_this_thread;
#[cfg(feature = "host-kernels")]
pub use host::on_host;

/// Who runs kernels.
pub(crate) enum Engine {
    #[cfg(feature = "cuda")]
    Cuda(candle_core::CudaDevice),
    #[cfg(feature = "host-kernels")]
    Host,
}

impl Engine {
    /// Multiprocessors.
    fn processors(&self) -> Result<usize> {
        match self {
            #[cfg(feature = "cuda")]
            Engine::Cuda(device) => {
                let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
                let count = device.cuda_stream().context().attribute(attribute);
                let count = count.map_err(|error| {
                    message(format!("cannot ask the GPU how large it is: {error}"))
                })?;
                Ok(usize::try_from(count).unwrap_or(1).max(1))
            }
            // Few, so that blocks take several rows each.
            #[cfg(feature = "host-kernels")]
            Engine::Host => Ok(4),
        }
    }

    /// Blocks that run at once, of so many threads, each of which needs up to so many registers: what is more is dealt out to them in
    /// turn, so that all end together.
    fn blocks(&self, threads: usize, registers: usize) -> Result<usize> {
        // Each quarter of a multiprocessor has 16,384 registers and runs up to 16 warps; there are up to 32 blocks.
        let warps = 4 * (16_384 / (32 * registers)).min(16);
        Ok(self.processors()? * (32 * warps / threads).clamp(1, 32))
    }

    /// Blocks that take whole rows, and threads of each, that take four columns.
    fn rows(&self, rows: usize, dim: usize, registers: usize) -> Result<(usize, usize)> {
        if !dim.is_multiple_of(4) || dim > 4096 {
            return Err(message(format!(
                "a GPU takes widths that are multiples of 4, to 4096; this one is {dim}"
            )));
        }
        let threads = (dim / 4).next_multiple_of(32);
        Ok((rows.min(self.blocks(threads, registers)?), threads))
    }
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

    /// Of each sample, and how many rows a sample has.
    fn factors(self, factors: Option<&Tensor>, rows: usize) -> Result<Self> {
        match factors {
            None => self.null().count(1),
            Some(factors) => {
                let samples = factors.elem_count();
                if !rows.is_multiple_of(samples.max(1)) {
                    return Err(message(format!(
                        "{rows} rows are not those of {samples} samples"
                    )));
                }
                self.pointer(address::input(factors, DType::F32, samples)?)
                    .count(rows / samples)
            }
        }
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

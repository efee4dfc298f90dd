//! NVIDIA GPUs: loading the kernels, launching them, addresses; products; what comes back.

mod feeder;
#[cfg(feature = "nccl")]
pub mod nccl;
mod product;
mod readback;
mod recorder;

use std::sync::{Arc, Mutex, OnceLock};

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUDA_VERSION, CUdevice_attribute, CUfunction_attribute, cuDriverGetVersion,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig,
    PinnedHostSlice, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{CudaDevice, CudaStorage, Device};

use crate::kernels::update::AdamW;
use crate::kernels::{Arg, Channels};
use crate::{Error, Result};

pub(crate) use feeder::Lanes;
pub(crate) use product::product;
pub(crate) use readback::{Readback, Reading};
pub(crate) use recorder::{Key, Recorder};

/// Name and code, for each architecture and as PTX, of each file of kernels.
const MODULES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// The GPU of this number, with a stream of its own.
///
/// # Errors
/// If there is no such GPU, or no driver, or one that is older than the CUDA of this build.
pub fn device(ordinal: usize) -> Result<Device> {
    let version = driver_version()?;
    too_old(version, CUDA_VERSION)?;
    let device = CudaDevice::new_with_stream(ordinal).map_err(|error| {
        failed(format!(
            "cannot use the NVIDIA GPU {ordinal}: {error}; `nvidia-smi` shows the GPUs and the driver's version"
        ))
    })?;
    // SAFETY: all work on the device's tensors is queued on its one stream, in order, so nothing needs the events.
    unsafe { device.disable_event_tracking() };
    Ok(Device::Cuda(device))
}

/// Name, compute capability and memory of a GPU, and the CUDA version of its driver: for reports.
///
/// # Errors
/// If the device is no GPU or fails.
pub fn describe(device: &Device) -> Result<String> {
    let Device::Cuda(device) = device else {
        return Err(failed("only a GPU can be described".into()));
    };
    let stream = device.cuda_stream();
    let context = stream.context();
    let explain = |error| failed(format!("cannot ask the GPU what it is: {error}"));
    let name = context.name().map_err(explain)?;
    let (major, minor) = context.compute_capability().map_err(explain)?;
    let (_, all) = memory(device)?;
    Ok(format!(
        "{name}, compute capability {major}.{minor}, {:.0} GB, driver for CUDA {}, mae built with {}",
        all as f64 / 1e9,
        dotted(driver_version()?),
        dotted(CUDA_VERSION)
    ))
}

/// The newest CUDA that the driver knows, as `1000 * major + 10 * minor`.
fn driver_version() -> Result<u32> {
    let mut version = 0;
    // SAFETY: writes one number.
    unsafe { cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|error| {
            failed(format!(
                "no NVIDIA driver answers: {error}; `nvidia-smi` shows whether there is one"
            ))
        })?;
    Ok(u32::try_from(version).unwrap_or(0))
}

/// Refuses a driver whose CUDA has a lower major number than the build's: it can load neither its code nor its PTX.
fn too_old(driver: u32, build: u32) -> Result<()> {
    if driver / 1000 >= build / 1000 {
        return Ok(());
    }
    Err(failed(format!(
        "the NVIDIA driver knows CUDA up to {}, and this mae was built with CUDA {}: update the driver, or build with the driver's \
         CUDA toolkit",
        dotted(driver),
        dotted(build)
    )))
}

fn dotted(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Page-locked memory with anything in it; not write-combined, as the host may read it.
pub(crate) fn page_locked<T: DeviceRepr>(
    device: &Device,
    len: usize,
) -> Result<PinnedHostSlice<T>> {
    let Device::Cuda(device) = device else {
        return Err(failed("memory is locked for a GPU".into()));
    };
    let stream = device.cuda_stream();
    // SAFETY: numbers of any bits; who takes it writes it before it is read.
    unsafe { stream.context().alloc_pinned_with_flags(len, 0) }
        .map_err(|error| failed(format!("cannot lock memory: {error}")))
}

/// Free and all bytes of a GPU.
pub(crate) fn memory(device: &CudaDevice) -> Result<(u64, u64)> {
    let stream = device.cuda_stream();
    let (free, all) = stream
        .context()
        .mem_get_info()
        .map_err(|error| failed(format!("cannot ask the GPU for its memory: {error}")))?;
    Ok((free as u64, all as u64))
}

// SAFETY: plain numbers in C's layout, as the kernels declare it.
unsafe impl DeviceRepr for Channels {}
// SAFETY: as above.
unsafe impl DeviceRepr for AdamW {}

/// What one GPU has loaded.
struct Loaded {
    context: Arc<CudaContext>,
    modules: Vec<Arc<CudaModule>>,
    functions: Vec<(String, CudaFunction)>,
}

impl Loaded {
    fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let modules = MODULES
            .iter()
            .map(|(name, code)| {
                context
                    .load_module(Ptx::from_binary(code.to_vec()))
                    .map_err(|error| {
                        failed(format!(
                            "the driver cannot load the kernels of {name}: {error}; GPUs of compute capability 8.0 or newer and \
                             a driver at least as new as the CUDA toolkit of the build are needed"
                        ))
                    })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            context: context.clone(),
            modules,
            functions: Vec::new(),
        })
    }

    fn function(&mut self, kernel: &str) -> Result<CudaFunction> {
        if let Some((_, function)) = self.functions.iter().find(|(name, _)| name == kernel) {
            return Ok(function.clone());
        }
        let found = self
            .modules
            .iter()
            .find_map(|module| module.load_function(kernel).ok());
        let function = found.ok_or_else(|| failed(format!("there is no kernel {kernel}")))?;
        // More than 48 KiB of shared memory is for those who ask; the limit alone costs nothing.
        let limit = self
            .context
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
        let own = function.get_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
        limit
            .and_then(|limit| {
                function.set_attribute(
                    CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    limit - own?,
                )
            })
            .map_err(|error| failed(format!("cannot set up the kernel {kernel}: {error}")))?;
        self.functions.push((kernel.into(), function.clone()));
        Ok(function)
    }
}

fn function(context: &Arc<CudaContext>, kernel: &str) -> Result<CudaFunction> {
    static LOADED: OnceLock<Mutex<Vec<Loaded>>> = OnceLock::new();
    let mut loaded = LOADED
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let at = match loaded.iter().position(|l| Arc::ptr_eq(&l.context, context)) {
        Some(at) => at,
        None => {
            loaded.push(Loaded::new(context)?);
            loaded.len() - 1
        }
    };
    // To find a function needs the context, and each thread has to say so.
    context
        .bind_to_thread()
        .map_err(|error| failed(format!("cannot use the GPU: {error}")))?;
    loaded[at].function(kernel)
}

/// Queues a kernel on the device's stream.
pub(crate) fn launch(
    device: &CudaDevice,
    kernel: &str,
    (blocks, threads, shared): (u32, u32, u32),
    args: &[Arg],
) -> Result<()> {
    let stream = device.cuda_stream();
    let function = function(stream.context(), kernel)?;
    let mut builder = stream.launch_builder(&function);
    for arg in args {
        match arg {
            Arg::Word(word) => builder.arg(word),
            Arg::Channels(channels) => builder.arg(channels),
            Arg::AdamW(adamw) => builder.arg(&**adamw),
        };
    }
    let config = LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: shared,
    };
    // SAFETY: the driver reads as many bytes of each word as the kernel's argument has; addresses among them are those of tensors with
    // the lengths that the other arguments say, freed no earlier on this stream than the kernel has run.
    unsafe { builder.launch(config) }
        .map_err(|error| failed(format!("cannot launch the kernel {kernel}: {error}")))?;
    Ok(())
}

/// Where a tensor's storage begins on the device, to be read.
pub(crate) fn address(storage: &CudaStorage) -> Result<u64> {
    let stream = storage.device.cuda_stream();
    Ok(match &storage.slice {
        CudaStorageSlice::U8(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::U32(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::BF16(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::F32(numbers) => numbers.device_ptr(&stream).0,
        _ => return Err(failed("kernels read u8, u32, f32 and bf16 only".into())),
    })
}

/// Where a tensor's storage begins on the device, to be written.
pub(crate) fn address_mut(storage: &mut CudaStorage) -> candle_core::Result<u64> {
    let stream = storage.device.cuda_stream();
    Ok(match &mut storage.slice {
        CudaStorageSlice::BF16(numbers) => numbers.device_ptr_mut(&stream).0,
        CudaStorageSlice::F32(numbers) => numbers.device_ptr_mut(&stream).0,
        _ => candle_core::bail!("kernels write f32 and bf16 only"),
    })
}

fn failed(text: String) -> Error {
    candle_core::Error::Msg(text).into()
}

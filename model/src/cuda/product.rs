//! Products by cuBLASLt. For each shape the first algorithm that the library proposes, kept from then on, and one workspace: the same
//! bits from run to run on one kind of GPU.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::size_of_val;
use std::ptr::from_ref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtrMut};
use candle_core::{CudaDevice, DType};

use super::failed;
use crate::Result;
use crate::kernels::product::{Matrices, Product};

/// What NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;
/// What every address is a multiple of, at least.
const ALIGNMENT: u32 = 16;

/// A stream's handle, its workspace, and the products done so far.
struct Products {
    stream: Arc<CudaStream>,
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    plans: HashMap<Product, Plan>,
}

// SAFETY: a handle may be used by any one thread at a time, which the lock around it sees to.
unsafe impl Send for Products {}

/// Descriptors of a product and the algorithm for it. They live as long as the process.
#[derive(Clone, Copy)]
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    first: sys::cublasLtMatrixLayout_t,
    second: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptors are plain memory that nothing changes after their making.
unsafe impl Send for Plan {}

type Found<T> = std::result::Result<T, result::CublasError>;

/// Queues a product on the device's stream.
pub(crate) fn product(device: &CudaDevice, product: Product, at: Matrices) -> Result<()> {
    static ALL: OnceLock<Mutex<Vec<Products>>> = OnceLock::new();
    let mut all = ALL
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let stream = device.cuda_stream();
    let found = all.iter().position(|p| Arc::ptr_eq(&p.stream, &stream));
    let index = match found {
        Some(index) => index,
        None => {
            all.push(Products::new(&stream)?);
            all.len() - 1
        }
    };
    all[index].run(product, at)
}

impl Products {
    fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let context: &Arc<CudaContext> = stream.context();
        context
            .bind_to_thread()
            .map_err(|error| failed(format!("cannot use the GPU: {error}")))?;
        let handle = result::create_handle()
            .map_err(|error| failed(format!("cannot start cuBLASLt: {error}")))?;
        let workspace = stream
            .alloc_zeros::<u8>(WORKSPACE)
            .map_err(|error| failed(format!("no room for cuBLASLt's workspace: {error}")))?;
        Ok(Self {
            stream: stream.clone(),
            handle,
            workspace,
            plans: HashMap::new(),
        })
    }

    fn run(&mut self, product: Product, at: Matrices) -> Result<()> {
        let describe = |error| failed(format!("cuBLASLt cannot do {product:?}: {error}"));
        let plan = match self.plans.get(&product) {
            Some(plan) => *plan,
            None => {
                let plan = Plan::new(self.handle, product).map_err(describe)?;
                self.plans.insert(product, plan);
                plan
            }
        };
        let stream = self.stream.clone();
        stream
            .context()
            .bind_to_thread()
            .map_err(|error| failed(format!("cannot use the GPU: {error}")))?;
        let (alpha, beta) = (1f32, if product.add { 1f32 } else { 0f32 });
        let (workspace, _guard) = self.workspace.device_ptr_mut(&stream);
        // SAFETY: the descriptors say what stands at the addresses, which are those of tensors that the caller holds and that are freed
        // no earlier on this stream; the workspace is used by one product at a time, as they follow each other on the stream.
        unsafe {
            result::matmul(
                self.handle,
                plan.operation,
                from_ref(&alpha).cast(),
                from_ref(&beta).cast(),
                at.b as *const c_void,
                plan.first,
                at.a as *const c_void,
                plan.second,
                at.out as *const c_void,
                plan.out,
                at.out as *mut c_void,
                plan.out,
                from_ref(&plan.algorithm),
                workspace as *mut c_void,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        }
        .map_err(describe)
    }
}

fn number(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        _ => sys::cudaDataType::CUDA_R_32F,
    }
}

impl Plan {
    /// cuBLASLt thinks in columns: to it a row-major matrix is its transpose, and `out = a · b` is `outᵀ = bᵀ · aᵀ`.
    fn new(handle: sys::cublasLtHandle_t, p: Product) -> Found<Self> {
        let compute = match (p.operands, p.tf32) {
            (DType::F32, true) => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let operation = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)?;
        let transposes = [
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                p.transpose_b,
            ),
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB,
                p.transpose_a,
            ),
        ];
        for (attribute, transposed) in transposes {
            let value = i32::from(transposed);
            // SAFETY: the attribute is a number of 32 bits: 0 for the matrix as it is, 1 for its transpose.
            unsafe {
                let (value, size) = (from_ref(&value).cast(), size_of_val(&value));
                result::set_matmul_desc_attribute(operation, attribute, value, size)?;
            }
        }
        let layout = |dtype, rows: usize, cols: usize| {
            result::create_matrix_layout(number(dtype), cols as u64, rows as u64, cols as i64)
        };
        let stored = |transposed, rows, cols| {
            if transposed {
                (cols, rows)
            } else {
                (rows, cols)
            }
        };
        let (b_rows, b_cols) = stored(p.transpose_b, p.k, p.n);
        let (a_rows, a_cols) = stored(p.transpose_a, p.m, p.k);
        let first = layout(p.operands, b_rows, b_cols)?;
        let second = layout(p.operands, a_rows, a_cols)?;
        let out = layout(p.out, p.m, p.n)?;
        let preference = result::create_matmul_pref()?;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let alignments = [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        // SAFETY: each attribute is given a number of its type; the handle and all descriptors are alive.
        let found = unsafe {
            let size = WORKSPACE as u64;
            result::set_matmul_pref_attribute(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                from_ref(&size).cast(),
                size_of_val(&size),
            )?;
            for alignment in alignments {
                result::set_matmul_pref_attribute(
                    preference,
                    alignment,
                    from_ref(&ALIGNMENT).cast(),
                    size_of_val(&ALIGNMENT),
                )?;
            }
            let found = result::get_matmul_algo_heuristic(
                handle, operation, first, second, out, out, preference,
            );
            result::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Self {
            operation,
            first,
            second,
            out,
            algorithm: found.algo,
        })
    }
}

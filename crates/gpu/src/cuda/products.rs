//! Products by cuBLASLt: for each kind of product, what describes it and by which algorithm it is computed.
//!
//! cuBLASLt's matrices are stored column by column. Read like that, rows of ours are columns of their transposes, and
//! `to = from · weightᵀ` is `toᵀ = weight · fromᵀ`: its A is `weight`, transposed again, its B `from`, and its C and D are `added`
//! and `to`. A bias has one number for each row of D, which is a column of `to`.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::from_ref;
use std::sync::Arc;

use cudarc::cublaslt::result;
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulAlgo_t, cublasLtMatmulAlgoGetHeuristic,
    cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cublasLtReductionScheme_t, cublasStatus_t,
    cudaDataType_t,
};

use super::answer::blas;
use super::event::Event;
use super::memory::CudaMemory;
use super::shared::Shared;
use crate::card::{Address, CardError, CardResult, Epilogue, Number, Product};

/// What every row lies on, by the contract of [`Product`].
const ALIGNMENT: u32 = 16;
/// Algorithms that are timed.
const CANDIDATES: usize = 3;
/// With fewer rows a product takes no longer than asking for it, and what would be timed is that.
const TIMED_ROWS: usize = 1024;
const WARM_UPS: usize = 1;
const RUNS: usize = 3;
/// Another algorithm than the recommended one must take less than this share of its time: a smaller gain may be none.
const WORTH_IT: f32 = 0.97;

/// CUBLAS_OP_T.
const TRANSPOSED: i32 = 1;
/// CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16F, _16BF and _TF32: what a kernel may round factors to before it multiplies them.
const ROUNDED_INPUT: u64 = 0b111 << 16;

/// Products' descriptions, made when they are first asked for.
#[derive(Default)]
pub(super) struct Products {
    plans: HashMap<Key, Plan>,
}

/// Everything of a product but where its matrices lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    rows: usize,
    depth: usize,
    columns: usize,
    number: Number,
    to_number: Number,
    from_stride: usize,
    weight_stride: usize,
    to_stride: usize,
    has_bias: bool,
    epilogue: Epilogue,
    is_added: bool,
}

struct Plan {
    operation: Operation,
    weight: Layout,
    from: Layout,
    to: Layout,
    algorithm: cublasLtMatmulAlgo_t,
}

impl Products {
    /// Asks for a product.
    ///
    /// # Safety
    /// The context is current, and its matrices are the caller's.
    pub(super) unsafe fn multiply(&mut self, shared: &Arc<Shared>, product: &Product) -> CardResult<()> {
        let key = Key::of(product);
        let plan = match self.plans.get(&key) {
            Some(plan) => plan,
            None => {
                // SAFETY: the caller's promise.
                let plan = unsafe { self.plan(shared, &key, product)? };
                self.plans.entry(key).or_insert(plan)
            }
        };
        // SAFETY: the caller's promise; the plan is for such products.
        unsafe { plan.run(shared, product) }
    }

    /// How products of this kind will be computed from now on, this one the first of them.
    unsafe fn plan(&self, shared: &Arc<Shared>, key: &Key, product: &Product) -> CardResult<Plan> {
        let mut plan = Plan {
            operation: Operation::new(key)?,
            weight: Layout::new(key.number, key.columns, key.depth, key.weight_stride)?,
            from: Layout::new(key.number, key.rows, key.depth, key.from_stride)?,
            to: Layout::new(key.to_number, key.rows, key.columns, key.to_stride)?,
            algorithm: cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        let mut candidates = plan.recommended(shared, key, true)?;
        if candidates.is_empty() {
            tracing::debug!("no algorithm keeps to all that is wished for {key:?}");
            candidates = plan.recommended(shared, key, false)?;
        }
        let Some(&first) = candidates.first() else {
            return Err(CardError::Failed(format!("cuBLASLt has no algorithm for a product: {key:?}")));
        };
        plan.algorithm = first;
        if key.rows >= TIMED_ROWS && candidates.len() > 1 && !shared.is_recording() {
            // SAFETY: the caller's promise.
            let fastest = unsafe { plan.fastest(shared, product, &candidates) };
            plan.algorithm = fastest.unwrap_or_else(|error| {
                tracing::debug!("no algorithms are timed for {key:?}: {error}");
                first
            });
        }
        Ok(plan)
    }
}

impl Key {
    fn of(product: &Product) -> Key {
        Key {
            rows: product.rows,
            depth: product.depth,
            columns: product.columns,
            number: product.number,
            to_number: product.to_number,
            from_stride: product.from.1,
            weight_stride: product.weight.1,
            to_stride: product.to.1,
            has_bias: product.bias != Address::NOWHERE,
            epilogue: product.epilogue,
            is_added: product.added != Address::NOWHERE,
        }
    }

    fn epilogue(&self) -> cublasLtEpilogue_t {
        match (self.epilogue, self.has_bias) {
            (Epilogue::None, false) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            (Epilogue::None, true) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            // cuBLASLt's GELU is the approximation by tanh.
            (Epilogue::GeluTanh, false) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU,
            (Epilogue::GeluTanh, true) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
            (Epilogue::Relu, false) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU,
            (Epilogue::Relu, true) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS,
        }
    }
}

impl Plan {
    /// Algorithms for this, the one that is thought to be the fastest first; only such as round sums and factors nowhere else
    /// where `strict`.
    fn recommended(&self, shared: &Shared, key: &Key, strict: bool) -> CardResult<Vec<cublasLtMatmulAlgo_t>> {
        let (_, workspace_bytes) = shared.workspace();
        let preference = Preference::new(workspace_bytes)?;
        if strict {
            preference.round_nowhere_else(key.number)?;
        }
        if key.has_bias {
            // Nobody reads there: it says that a bias lies at a multiple of 16, and of no larger power of two.
            self.operation.set_bias(Address(ALIGNMENT.into()))?;
        }
        let mut found = [const { MaybeUninit::<cublasLtMatmulHeuristicResult_t>::uninit() }; CANDIDATES];
        let mut count: c_int = 0;
        // SAFETY: handle and descriptors are there, and there is room for so many results.
        let asked = unsafe {
            cublasLtMatmulAlgoGetHeuristic(
                shared.handle(),
                self.operation.0,
                self.weight.0,
                self.from.0,
                self.to.0,
                self.to.0,
                preference.0,
                CANDIDATES as c_int,
                found.as_mut_ptr().cast(),
                &mut count,
            )
        };
        if asked == cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED {
            return Ok(Vec::new());
        }
        blas("cublasLtMatmulAlgoGetHeuristic", asked.result())?;
        let found = &found[..usize::try_from(count).unwrap_or_default().min(CANDIDATES)];
        // SAFETY: so many were written.
        let found = found.iter().map(|found| unsafe { found.assume_init_ref() });
        let usable = found.filter(|found| {
            found.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS && found.workspaceSize <= workspace_bytes
        });
        Ok(usable.map(|found| found.algo).collect())
    }

    /// Asks for a product.
    ///
    /// # Safety
    /// The context is current, the plan is of this product's kind, and its matrices are the caller's.
    unsafe fn run(&self, shared: &Shared, product: &Product) -> CardResult<()> {
        if product.bias != Address::NOWHERE {
            self.operation.set_bias(product.bias)?;
        }
        // Where nothing is added, C is not read.
        let (added, share) =
            if product.added == Address::NOWHERE { (product.to.0, 0f32) } else { (product.added, 1.0) };
        let (workspace, workspace_bytes) = shared.workspace();
        let one = 1f32;
        // SAFETY: handle and descriptors are there, and the algorithm is for them; factors are read before this returns. The
        // matrices are as large as the descriptors say, by the caller's promise. The workspace is used by this stream alone.
        let asked = unsafe {
            result::matmul(
                shared.handle(),
                self.operation.0,
                from_ref(&one).cast(),
                from_ref(&share).cast(),
                pointer(product.weight.0),
                self.weight.0,
                pointer(product.from.0),
                self.from.0,
                pointer(added),
                self.to.0,
                pointer(product.to.0),
                self.to.0,
                &self.algorithm,
                workspace,
                workspace_bytes,
                shared.stream().cast(),
            )
        };
        blas("cublasLtMatmul", asked)
    }

    /// The fastest of these algorithms, the first of which is the recommended one. Each computes the product a few times, to where
    /// nobody reads it.
    ///
    /// # Safety
    /// As for [`Plan::run`].
    unsafe fn fastest(
        &mut self,
        shared: &Arc<Shared>,
        product: &Product,
        candidates: &[cublasLtMatmulAlgo_t],
    ) -> CardResult<cublasLtMatmulAlgo_t> {
        let bytes = product.rows * product.to.1 * product.to_number.bytes();
        let aside = CudaMemory::take(shared, bytes)?;
        let mut product = *product;
        product.to.0 = aside.address();
        if product.added != Address::NOWHERE {
            product.added = aside.address();
        }
        let (start, end) = (Event::timed()?, Event::timed()?);
        let mut best = (f32::INFINITY, self.algorithm);
        for (place, &candidate) in candidates.iter().enumerate() {
            self.algorithm = candidate;
            // SAFETY: the caller's promise, and as much memory as there is in `to`.
            let time = match unsafe { self.time(shared, &product, &start, &end) } {
                Ok(time) if place == 0 => time * WORTH_IT,
                Ok(time) => time,
                // Others may work.
                Err(_) => continue,
            };
            if time < best.0 {
                best = (time, candidate);
            }
        }
        Ok(best.1)
    }

    /// Milliseconds of some runs.
    ///
    /// # Safety
    /// As for [`Plan::run`].
    unsafe fn time(&self, shared: &Shared, product: &Product, start: &Event, end: &Event) -> CardResult<f32> {
        for _ in 0..WARM_UPS {
            // SAFETY: the caller's promise, here and below.
            unsafe { self.run(shared, product)? };
        }
        start.record(shared.stream())?;
        for _ in 0..RUNS {
            // SAFETY: as above.
            unsafe { self.run(shared, product)? };
        }
        end.record(shared.stream())?;
        end.since(start)
    }
}

fn pointer(address: Address) -> *mut c_void {
    address.0 as *mut c_void
}

fn data_type(number: Number) -> cudaDataType_t {
    match number {
        Number::F32 => cudaDataType_t::CUDA_R_32F,
        Number::F16 => cudaDataType_t::CUDA_R_16F,
        Number::Bf16 => cudaDataType_t::CUDA_R_16BF,
    }
}

/// What is computed.
struct Operation(cublasLtMatmulDesc_t);

impl Operation {
    fn new(key: &Key) -> CardResult<Operation> {
        use cublasLtMatmulDescAttributes_t::{
            CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_TRANSA,
        };
        // Summed and scaled in f32.
        let created = result::create_matmul_desc(cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F);
        let operation = Operation(blas("cublasLtMatmulDescCreate", created)?);
        operation.set(CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        operation.set(CUBLASLT_MATMUL_DESC_EPILOGUE, &(key.epilogue() as u32))?;
        if key.has_bias {
            operation.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &(data_type(key.to_number) as i32))?;
        }
        Ok(operation)
    }

    fn set_bias(&self, bias: Address) -> CardResult<()> {
        self.set(cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.0)
    }

    fn set<T: Copy>(&self, attribute: cublasLtMatmulDescAttributes_t, value: &T) -> CardResult<()> {
        // SAFETY: a descriptor that is there, and as many bytes as are named, which are copied.
        let set =
            unsafe { result::set_matmul_desc_attribute(self.0, attribute, from_ref(value).cast(), size_of::<T>()) };
        blas("cublasLtMatmulDescSetAttribute", set)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: it is there, and nobody uses it any more: what was asked for has a copy.
        if let Err(error) = blas("cublasLtMatmulDescDestroy", unsafe { result::destroy_matmul_desc(self.0) }) {
            tracing::debug!("a descriptor is left: {error}");
        }
    }
}

/// How a matrix is stored.
struct Layout(cublasLtMatrixLayout_t);

impl Layout {
    /// Of our rows and columns: theirs are the other way round.
    fn new(number: Number, rows: usize, columns: usize, stride: usize) -> CardResult<Layout> {
        let created = result::create_matrix_layout(data_type(number), columns as u64, rows as u64, stride as i64);
        blas("cublasLtMatrixLayoutCreate", created).map(Layout)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: as for an operation.
        if let Err(error) = blas("cublasLtMatrixLayoutDestroy", unsafe { result::destroy_matrix_layout(self.0) }) {
            tracing::debug!("a descriptor is left: {error}");
        }
    }
}

/// What is asked of algorithms.
struct Preference(cublasLtMatmulPreference_t);

impl Preference {
    fn new(workspace_bytes: usize) -> CardResult<Preference> {
        use cublasLtMatmulPreferenceAttributes_t::{
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        };
        let preference = Preference(blas("cublasLtMatmulPreferenceCreate", result::create_matmul_pref())?);
        preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(workspace_bytes as u64))?;
        for matrix in [
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(matrix, &ALIGNMENT)?;
        }
        Ok(preference)
    }

    fn round_nowhere_else(&self, number: Number) -> CardResult<()> {
        use cublasLtMatmulPreferenceAttributes_t::{
            CUBLASLT_MATMUL_PREF_IMPL_MASK, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        };
        // Where a sum is computed in parts, these are added in f32 too, and not in 16 bits.
        let in_parts = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        self.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &in_parts)?;
        if number == Number::F32 {
            // The compute type leaves out TF32 already. Where an environment variable asks for less precision, this holds.
            self.set(CUBLASLT_MATMUL_PREF_IMPL_MASK, &!ROUNDED_INPUT)?;
        }
        Ok(())
    }

    fn set<T: Copy>(&self, attribute: cublasLtMatmulPreferenceAttributes_t, value: &T) -> CardResult<()> {
        // SAFETY: a descriptor that is there, and as many bytes as are named, which are copied.
        let set =
            unsafe { result::set_matmul_pref_attribute(self.0, attribute, from_ref(value).cast(), size_of::<T>()) };
        blas("cublasLtMatmulPreferenceSetAttribute", set)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: as for an operation.
        if let Err(error) = blas("cublasLtMatmulPreferenceDestroy", unsafe { result::destroy_matmul_pref(self.0) }) {
            tracing::debug!("a descriptor is left: {error}");
        }
    }
}

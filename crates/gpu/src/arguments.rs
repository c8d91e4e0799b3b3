//! What kernels take, as `kernels/*.cuh` have it: one structure each, of the same layout.

use crate::card::Address;

/// Parameters of a norm.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct NormParameters {
    pub(crate) gamma: Address,
    pub(crate) beta: Address,
    pub(crate) epsilon: f32,
    pub(crate) rms: u32,
}

impl NormParameters {
    /// Nothing is normed.
    pub(crate) const NONE: NormParameters =
        NormParameters { gamma: Address::NOWHERE, beta: Address::NOWHERE, epsilon: 0.0, rms: 0 };
}

/// Most embedding tables of a model.
pub(crate) const MOST_TABLES: usize = 4;

#[repr(C)]
pub(crate) struct EmbeddingArguments {
    pub(crate) tables: [Address; MOST_TABLES],
    pub(crate) rows_of: [Address; MOST_TABLES],
    pub(crate) to: Address,
    pub(crate) norm: NormParameters,
    pub(crate) tables_count: u32,
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) stride: u32,
}

#[repr(C)]
pub(crate) struct NormArguments {
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) added: Address,
    pub(crate) first: NormParameters,
    pub(crate) second: NormParameters,
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) from_stride: u32,
    pub(crate) to_stride: u32,
}

#[repr(C)]
pub(crate) struct AddNormedArguments {
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) norm: NormParameters,
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) from_stride: u32,
    pub(crate) to_stride: u32,
}

#[repr(C)]
pub(crate) struct HeadsArguments {
    pub(crate) projected: Address,
    pub(crate) query: NormParameters,
    pub(crate) key: NormParameters,
    pub(crate) turns: Address,
    pub(crate) positions: Address,
    pub(crate) rows: u32,
    pub(crate) stride: u32,
    pub(crate) heads: u32,
    pub(crate) key_heads: u32,
    pub(crate) size: u32,
    pub(crate) pairs: u32,
    pub(crate) over_all: u32,
}

#[repr(C)]
pub(crate) struct AttentionArguments {
    pub(crate) projected: Address,
    pub(crate) context: Address,
    pub(crate) tiles: Address,
    pub(crate) bias: Address,
    pub(crate) projected_stride: u32,
    pub(crate) context_stride: u32,
    pub(crate) heads: u32,
    pub(crate) key_heads: u32,
    pub(crate) size: u32,
    pub(crate) before: u32,
    pub(crate) after: u32,
    pub(crate) bias_longest: u32,
    pub(crate) scale: f32,
}

#[repr(C)]
pub(crate) struct ActivationArguments {
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) gate: u32,
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) from_stride: u32,
    pub(crate) to_stride: u32,
    pub(crate) activation: u32,
}

#[repr(C)]
pub(crate) struct RouteArguments {
    pub(crate) from: Address,
    pub(crate) weight: Address,
    pub(crate) bias: Address,
    pub(crate) shares: Address,
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) from_stride: u32,
    pub(crate) experts: u32,
    pub(crate) taken: u32,
}

#[repr(C)]
pub(crate) struct WidenArguments {
    pub(crate) from: Address,
    pub(crate) bias: Address,
    pub(crate) to: Address,
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) from_stride: u32,
    pub(crate) to_stride: u32,
}

#[repr(C)]
pub(crate) struct TakersArguments {
    pub(crate) shares: Address,
    pub(crate) counts: Address,
    pub(crate) takers: Address,
    pub(crate) totals: Address,
    pub(crate) rows: u32,
    pub(crate) experts: u32,
}

#[repr(C)]
pub(crate) struct GatherArguments {
    pub(crate) from: Address,
    pub(crate) takers: Address,
    pub(crate) to: Address,
    pub(crate) rows: u32,
    pub(crate) pieces: u32,
    pub(crate) from_stride: u32,
    pub(crate) to_stride: u32,
}

#[repr(C)]
pub(crate) struct AddShareArguments {
    pub(crate) from: Address,
    pub(crate) takers: Address,
    pub(crate) shares: Address,
    pub(crate) to: Address,
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) from_stride: u32,
    pub(crate) to_stride: u32,
    pub(crate) experts: u32,
    pub(crate) expert: u32,
}

#[repr(C)]
pub(crate) struct PoolingArguments {
    pub(crate) states: Address,
    pub(crate) sequences: Address,
    pub(crate) to: Address,
    pub(crate) width: u32,
    pub(crate) stride: u32,
    pub(crate) mode: u32,
}

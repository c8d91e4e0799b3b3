//! Whose f32 operations are computed.

/// The architecture on which ONNX Runtime 1.22 computes the same f32 operations, to the bit. Integer products are the same on
/// both, and so is all but three things, that differ by a rounding; and a rounding may make another code:
///
/// | | x86-64 with AVX-512 | arm64 |
/// |---|---|---|
/// | products within exp and erf | rounded with the sum | rounded by themselves |
/// | sums of softmax | in 16 lanes | in four, what is left one by one |
/// | norms: squares, variance, factor and bias | rounded by themselves | rounded with the sum |
///
/// Where the intermediate values are no multiple of four, arm64 computes GELU of a row's last ones as x86-64 does; here it is not
/// so, as no published model has such a size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// x86-64 with AVX-512.
    #[default]
    X86_64,
    /// 64-bit ARM.
    Arm64,
}

impl Arithmetic {
    /// Both.
    pub const ALL: [Arithmetic; 2] = [Arithmetic::X86_64, Arithmetic::Arm64];

    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Arithmetic::X86_64 => "x86-64",
            Arithmetic::Arm64 => "arm64",
        }
    }
}

impl std::fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

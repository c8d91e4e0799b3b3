//! In which numbers the weights are held and multiplied.

use crate::error::Error;

/// The numbers of a model's linear layers and embedding tables. Everything else (norms, sums) is f32; attention too, but
/// with bf16 and int8 on CPUs with products of bf16, which it then uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Weights and products in f32.
    #[default]
    F32,
    /// Weights and the inputs of linear layers in two parts of bf16, of whose products three are summed up in f32: on CPUs
    /// with a matrix unit; elsewhere it is computed as f32.
    Bf16x3,
    /// Weights in f16, products in f32.
    F16,
    /// Weights in bf16, products summed up in f32. The inputs of linear layers are rounded to bf16 too where products of two
    /// bf16 are fast.
    Bf16,
    /// Weights in 8 bits with a scale per output, the inputs of linear layers in 8 bits with a scale per row.
    Int8,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 5] =
        [Precision::F32, Precision::Bf16x3, Precision::F16, Precision::Bf16, Precision::Int8];

    /// Its name on the command line, in `/meta` and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16x3 => "bf16x3",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Precision::ALL.into_iter().find(|precision| precision.name() == name);
        known.ok_or_else(|| Error::unusable(format!("unknown precision '{name}': use f32, bf16x3, f16, bf16 or int8")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_unknown_ones_are_refused() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
        }
        assert!("fp16".parse::<Precision>().unwrap_err().message().contains("f16"));
    }
}

//! Where a tensor is in its file, and how its bytes become f32.

use std::ops::Range;

/// Types of numbers that weights come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NumberType {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// One that is no weight's, by name, with its bytes where they are known.
    Other(String, Option<u64>),
}

impl NumberType {
    /// Bytes of one number.
    pub fn size(&self) -> Option<u64> {
        match self {
            NumberType::F64 => Some(8),
            NumberType::F32 => Some(4),
            NumberType::F16 | NumberType::BF16 => Some(2),
            NumberType::Other(_, size) => *size,
        }
    }

    /// Whether they are whole.
    pub fn is_whole(&self) -> bool {
        self.whole(&[]).is_ok()
    }

    /// Whole numbers, signed ones as they are.
    ///
    /// # Errors
    /// In words, if they are of another type.
    pub fn whole(&self, bytes: &[u8]) -> Result<Vec<i64>, String> {
        let NumberType::Other(name, _) = self else {
            return Err(format!("has the type {self:?} where whole numbers belong"));
        };
        Ok(match name.as_str() {
            "I8" => bytes.iter().map(|&byte| i64::from(byte.cast_signed())).collect(),
            "U8" => bytes.iter().map(|&byte| i64::from(byte)).collect(),
            "I16" => bytes.as_chunks().0.iter().map(|&word| i64::from(i16::from_le_bytes(word))).collect(),
            "U16" => bytes.as_chunks().0.iter().map(|&word| i64::from(u16::from_le_bytes(word))).collect(),
            "I32" => bytes.as_chunks().0.iter().map(|&word| i64::from(i32::from_le_bytes(word))).collect(),
            "U32" => bytes.as_chunks().0.iter().map(|&word| i64::from(u32::from_le_bytes(word))).collect(),
            "I64" => bytes.as_chunks().0.iter().map(|&word| i64::from_le_bytes(word)).collect(),
            _ => return Err(format!("has the type {name} where whole numbers belong")),
        })
    }

    /// Appends the numbers of `bytes` in f32.
    ///
    /// # Errors
    /// In words, if they are of a type that is not supported.
    pub fn append(&self, bytes: &[u8], values: &mut Vec<f32>) -> Result<(), String> {
        let halves = bytes.as_chunks::<2>().0.iter().map(|&pair| u16::from_le_bytes(pair));
        match self {
            NumberType::F64 => values.extend(bytes.as_chunks().0.iter().map(|&word| f64::from_le_bytes(word) as f32)),
            NumberType::F32 => values.extend(bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word))),
            NumberType::F16 => values.extend(halves.map(|bits| half::f16::from_bits(bits).to_f32())),
            NumberType::BF16 => values.extend(halves.map(|bits| half::bf16::from_bits(bits).to_f32())),
            NumberType::Other(name, _) => return Err(format!("has the type {name}, which is not supported")),
        }
        Ok(())
    }
}

/// A tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Bytes of the file.
    pub place: Range<u64>,
    /// What the bytes are.
    pub numbers: NumberType,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Distance of neighbours in each dimension, in numbers; `None` is row-major without gaps.
    pub strides: Option<Vec<usize>>,
}

/// Product of a shape, if it can be counted.
pub fn elements(shape: &[usize]) -> Option<u64> {
    shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size as u64))
}

impl Stored {
    /// The tensor's values, row-major, of the numbers at its place.
    ///
    /// # Errors
    /// What is wrong with the tensor: a number is not finite, or its strides lead beyond its numbers.
    pub fn finish(&self, values: Vec<f32>) -> Result<Vec<f32>, String> {
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(format!("holds {} at position {at}: the weights are damaged", values[at]));
        }
        match &self.strides {
            None => Ok(values),
            Some(strides) => self.gather(strides, &values),
        }
    }

    fn gather(&self, strides: &[usize], values: &[f32]) -> Result<Vec<f32>, String> {
        // A tensor of no more numbers than its storage: else a few bytes could ask for any amount of memory.
        let count = elements(&self.shape).filter(|&count| count <= values.len() as u64);
        let count = count.ok_or("is an expanded view of fewer numbers")? as usize;
        let mut gathered = Vec::with_capacity(count);
        let mut index = vec![0usize; self.shape.len()];
        for _ in 0..count {
            let at: usize = index.iter().zip(strides).map(|(&index, &stride)| index * stride).sum();
            gathered.push(*values.get(at).ok_or("reaches beyond its storage")?);
            for (index, &size) in index.iter_mut().zip(&self.shape).rev() {
                *index += 1;
                if *index < size {
                    break;
                }
                *index = 0;
            }
        }
        Ok(gathered)
    }
}

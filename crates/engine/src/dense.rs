//! The layers of a model behind its pooling: `2_Dense` of sentence-transformers and its like, and the heads of classifiers
//! ([`classification`](crate::classification)).

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::weights::{Weights, weight_files};
use crate::error::{Error, Result};
use crate::files::read_json;

/// Layers, one after the other. None at all leaves a vector as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Head {
    steps: Vec<Step>,
}

/// A layer of any kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// A linear layer.
    Dense(Layer),
    /// A LayerNorm. Its beta may be empty: zeros.
    Norm { gamma: Vec<f32>, beta: Vec<f32>, epsilon: f32 },
}

/// A linear layer and what is done to its outputs.
#[derive(Clone, PartialEq)]
pub(crate) struct Layer {
    /// `[outputs, inputs]`, row-major.
    pub(crate) weight: Vec<f32>,
    pub(crate) inputs: usize,
    /// Of each output, or empty.
    pub(crate) bias: Vec<f32>,
    pub(crate) activation: Activation,
}

/// Sizes instead of weights.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Layer");
        shown.field("outputs", &self.outputs()).field("inputs", &self.inputs);
        shown.field("bias", &[self.bias.len()]).field("activation", &self.activation).finish_non_exhaustive()
    }
}

/// What is done to each output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `tanh(x)`.
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)`, exactly.
    Gelu,
}

impl Head {
    /// Loads the layers in `dirs`, in order. The first takes vectors of `inputs` values; the tensors, not the numbers in
    /// `1_Pooling/config.json`, say what fits.
    ///
    /// # Errors
    /// `Unusable` for a directory whose configuration or weights are missing, damaged or do not fit what comes in.
    pub fn load(dirs: &[PathBuf], mut inputs: usize) -> Result<Head> {
        let mut steps = Vec::with_capacity(dirs.len());
        for dir in dirs {
            let layer = Layer::load(dir, inputs)?;
            inputs = layer.outputs();
            steps.push(Step::Dense(layer));
        }
        Ok(Head { steps })
    }

    /// These steps, each of which takes what the one before makes.
    pub(crate) fn of(steps: Vec<Step>) -> Head {
        Head { steps }
    }

    /// Length of the vectors that come out, `None` if they are those that went in.
    pub fn outputs(&self) -> Option<usize> {
        self.steps.iter().rev().find_map(Step::outputs)
    }

    /// Applies all layers to a vector.
    pub fn apply(&self, vector: Vec<f32>) -> Vec<f32> {
        self.steps.iter().fold(vector, |vector, step| match step {
            Step::Dense(layer) => layer.apply(&vector),
            Step::Norm { gamma, beta, epsilon } => normed(vector, (gamma, beta), *epsilon),
        })
    }
}

impl Step {
    /// Length of what it makes; `None`: of what it takes.
    pub(crate) fn outputs(&self) -> Option<usize> {
        match self {
            Step::Dense(layer) => Some(layer.outputs()),
            Step::Norm { .. } => None,
        }
    }
}

/// LayerNorm of a vector, in f64.
fn normed(mut vector: Vec<f32>, (gamma, beta): (&[f32], &[f32]), epsilon: f32) -> Vec<f32> {
    let count = vector.len().max(1) as f64;
    let mean = vector.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let variance = vector.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
    let scale = 1.0 / (variance + f64::from(epsilon)).sqrt();
    for (place, value) in vector.iter_mut().enumerate() {
        let shift = f64::from(beta.get(place).copied().unwrap_or(0.0));
        *value = ((f64::from(*value) - mean) * scale * f64::from(gamma[place]) + shift) as f32;
    }
    vector
}

impl Layer {
    fn load(dir: &Path, inputs: usize) -> Result<Layer> {
        let path = dir.join("config.json");
        let unusable = |why: String| Error::unusable(format!("{}: {why}", path.display())).naming(&path);
        let config = read_json(&path)?.ok_or_else(|| unusable("the file is missing: copy the model again".into()))?;
        let weights = Weights::open(&weight_files(dir)?, "linear.weight")?;
        let (shape, weight) = weights.tensor("linear.weight")?;
        let &[outputs, columns] = &shape[..] else {
            return Err(unusable(format!(
                "the tensor 'linear.weight' beside it has the shape {shape:?}, not two sizes"
            )));
        };
        if columns != inputs || outputs == 0 {
            return Err(unusable(format!(
                "the tensor 'linear.weight' beside it has the shape {shape:?} where vectors of {inputs} values come in"
            )));
        }
        for (key, size) in [("in_features", inputs), ("out_features", outputs)] {
            if let Some(value) = config.get(key).filter(|value| value.as_u64() != Some(size as u64)) {
                return Err(unusable(format!(
                    "{key} is {value}, but the tensor 'linear.weight' has the shape {shape:?}"
                )));
            }
        }
        let wants_bias = match config.get("bias") {
            None => true,
            Some(Value::Bool(bias)) => *bias,
            Some(other) => return Err(unusable(format!("bias must be true or false, got {other}"))),
        };
        let bias = match wants_bias {
            true => weights.tensor("linear.bias")?,
            false => (vec![outputs], Vec::new()),
        };
        if bias.0 != [outputs] {
            return Err(unusable(format!("the tensor 'linear.bias' has the shape {:?} beside {shape:?}", bias.0)));
        }
        let activation = match config.get("activation_function") {
            // What sentence-transformers' Dense does unless told otherwise.
            None => Activation::Tanh,
            Some(value) => Activation::find(value.as_str().unwrap_or_default())
                .ok_or_else(|| unusable(format!("the activation function {value} is not supported")))?,
        };
        Ok(Layer { weight, inputs, bias: bias.1, activation })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weight.len() / self.inputs
    }

    fn apply(&self, vector: &[f32]) -> Vec<f32> {
        let product = |(output, row): (usize, &[f32])| {
            self.activation.apply(dot(row, vector) + self.bias.get(output).copied().unwrap_or(0.0))
        };
        self.weight.chunks_exact(self.inputs).enumerate().map(product).collect()
    }
}

impl Activation {
    /// By the name that transformers' configurations have for it.
    pub(crate) fn of_transformers(name: &str) -> Option<Activation> {
        Some(match name {
            "gelu" => Activation::Gelu,
            "relu" => Activation::Relu,
            "tanh" => Activation::Tanh,
            "silu" | "swish" => Activation::Silu,
            _ => return None,
        })
    }

    /// By the name of torch's class, with or without its module.
    pub fn find(name: &str) -> Option<Activation> {
        let class = name.strip_prefix("torch.nn.").unwrap_or(name).rsplit('.').next()?;
        Some(match class {
            "Identity" => Activation::Identity,
            "Tanh" => Activation::Tanh,
            "ReLU" => Activation::Relu,
            "Sigmoid" => Activation::Sigmoid,
            "SiLU" => Activation::Silu,
            _ => return None,
        })
    }

    /// Its name, as `/meta` has it.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Identity => "identity",
            Activation::Tanh => "tanh",
            Activation::Relu => "relu",
            Activation::Sigmoid => "sigmoid",
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
        }
    }

    /// The function of a value.
    pub fn apply(self, value: f32) -> f32 {
        let wide = f64::from(value);
        match self {
            Activation::Identity => value,
            Activation::Tanh => wide.tanh() as f32,
            Activation::Relu => value.max(0.0),
            Activation::Sigmoid => (1.0 / (1.0 + (-wide).exp())) as f32,
            Activation::Silu => (wide / (1.0 + (-wide).exp())) as f32,
            Activation::Gelu => (0.5 * wide * (1.0 + libm::erf(wide / std::f64::consts::SQRT_2))) as f32,
        }
    }
}

/// Sixteen sums side by side, which the compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(weight: &[f32], inputs: usize, bias: &[f32], activation: Activation) -> Layer {
        Layer { weight: weight.to_vec(), inputs, bias: bias.to_vec(), activation }
    }

    #[test]
    fn layers_by_hand() {
        let first = layer(&[1.0, 2.0, 0.0, -1.0, 3.0, 0.5], 2, &[], Activation::Relu);
        assert_eq!(first.apply(&[2.0, 1.0]), [4.0, 0.0, 6.5]);
        let second = layer(&[1.0, 0.0, 2.0], 3, &[-17.0], Activation::Tanh);
        let head = Head { steps: vec![Step::Dense(first), Step::Dense(second)] };
        assert_eq!(head.outputs(), Some(1));
        assert_eq!(head.apply(vec![2.0, 1.0]), [0.0]);
        assert_eq!(Head::default().apply(vec![1.5]), [1.5]);
        assert_eq!(Head::default().outputs(), None);
    }

    #[test]
    fn activations_are_found_by_torch_s_names() {
        for (name, activation, at_one) in [
            ("torch.nn.modules.linear.Identity", Activation::Identity, 1.0),
            ("torch.nn.modules.activation.Tanh", Activation::Tanh, 0.761_594_2),
            ("torch.nn.modules.activation.ReLU", Activation::Relu, 1.0),
            ("torch.nn.Sigmoid", Activation::Sigmoid, 0.731_058_6),
            ("torch.nn.modules.activation.SiLU", Activation::Silu, 0.731_058_6),
        ] {
            assert_eq!(Activation::find(name), Some(activation));
            assert!((activation.apply(1.0) - at_one).abs() < 1e-7, "{name}");
        }
        assert_eq!(Activation::find("os.system"), None);
    }

    #[test]
    fn long_dot_products_are_whole() {
        let ones = vec![1.0; 53];
        let numbers: Vec<f32> = (0..53).map(|n| n as f32).collect();
        assert_eq!(dot(&ones, &numbers), (52 * 53 / 2) as f32);
    }
}

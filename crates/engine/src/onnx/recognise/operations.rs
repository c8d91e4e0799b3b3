//! What an encoder's blocks are made of: norms, products, linear layers, GELU.

use super::super::reader::{Fault, Node};
use super::parts::{DenseAt, NormAt, Weight};
use super::walk::Walk;

/// Why a value cannot be taken for a linear layer.
enum NotLinear {
    /// Something else stands there.
    Other(Fault),
    /// It may be one; what is behind it does not fit.
    Faulty(Fault),
}

impl NotLinear {
    fn fault(self) -> Fault {
        match self {
            NotLinear::Other(fault) | NotLinear::Faulty(fault) => fault,
        }
    }
}

/// One side of a quantised product.
pub(super) enum Side<'a> {
    /// Quantised when the text is there: the value it is made from.
    Activation(&'a str),
    Weight(Weight<'a>),
}

impl<'a> Walk<'a> {
    /// A LayerNorm, in one node or in nine: what it norms, and its parameters.
    pub(super) fn norm(&self, value: &'a str) -> Result<(&'a str, NormAt<'a>), Fault> {
        let node = self.node(value)?;
        if node.op == "LayerNormalization" {
            if node.int("axis").is_some_and(|axis| axis != -1) {
                return Err(format!("{node} norms another axis than the last"));
            }
            let epsilon = node.float("epsilon").unwrap_or(1e-5);
            let norm = NormAt { gamma: self.input(node, 1)?, beta: self.input(node, 2)?, epsilon };
            return Ok((self.input(node, 0)?, norm));
        }
        let no_norm = || format!("{node} stands where a LayerNorm was expected");
        let found = || -> Option<(&'a str, NormAt<'a>)> {
            let (scaled, beta) = self.split(value, "Add", |beta| self.is_vector(beta))?;
            let (normed, gamma) = self.split(scaled, "Mul", |gamma| self.is_vector(gamma))?;
            let divide = self.expect(normed, "Div", "").ok()?;
            let centred = *divide.inputs.first()?;
            let subtract = self.expect(centred, "Sub", "").ok()?;
            let source = *subtract.inputs.first()?;
            let mean = self.mean(subtract.inputs.get(1)?)?;
            let root = self.expect(divide.inputs.get(1)?, "Sqrt", "").ok()?;
            let (variance, epsilon) = self.split(root.inputs.first()?, "Add", |e| self.number(e).is_some())?;
            let power = self.expect(self.mean(variance)?, "Pow", "").ok()?;
            let squares = self.number(power.inputs.get(1)?)? == 2.0 && power.inputs.first() == Some(&centred);
            let epsilon = self.number(epsilon)?;
            (mean == source && squares).then_some((source, NormAt { gamma, beta, epsilon }))
        };
        found().ok_or_else(no_norm)
    }

    /// What a mean over the last axis is of.
    fn mean(&self, value: &'a str) -> Option<&'a str> {
        let node = self.expect(value, "ReduceMean", "").ok()?;
        let last = match node.ints("axes") {
            Some(axes) => axes == [-1],
            None => self.graph.constant(node.inputs.get(1)?)?.integers().ok()? == [-1],
        };
        last.then(|| node.inputs.first().copied()).flatten()
    }

    /// A product of codes, brought back to f32.
    pub(super) fn product(&self, value: &'a str) -> Result<(Side<'a>, Side<'a>), Fault> {
        let node = self.expect(value, "Mul", "a quantised product")?;
        let no_product = || format!("{node} stands where a product quantised dynamically was expected");
        for (sums, scales) in self.pair(node)? {
            let Ok(cast) = self.expect(sums, "Cast", "") else { continue };
            let Ok(product) = self.expect(self.input(cast, 0)?, "MatMulInteger", "") else { continue };
            let scales = self.expect(scales, "Mul", "the product of two scales")?;
            let side = |index: usize| -> Result<(Side<'a>, &'a str), Fault> {
                let (codes, zero_point) = (self.input(product, index)?, self.input(product, index + 2)?);
                if self.graph.constant(codes).is_some() {
                    // Which of the scales belongs to the weight is told by the other one.
                    let scale = scales.inputs.iter().find(|scale| self.graph.constant(scale).is_some());
                    let scale = *scale.ok_or_else(|| format!("{scales} lacks the scale of '{codes}'"))?;
                    return Ok((Side::Weight(Weight { codes, scale, zero_point }), scale));
                }
                let quantize = self.expect(codes, "DynamicQuantizeLinear", "a quantisation")?;
                match quantize.outputs[..] {
                    [made, scale, zero] if made == codes && zero == zero_point => {
                        Ok((Side::Activation(self.input(quantize, 0)?), scale))
                    }
                    _ => Err(format!("{product} mixes the results of {quantize} up")),
                }
            };
            let ((left, left_scale), (right, right_scale)) = (side(0)?, side(1)?);
            let [given, _] = self.pair(scales)?;
            if given != (left_scale, right_scale) && given != (right_scale, left_scale) {
                return Err(format!("{scales} has other scales than the product behind it"));
            }
            return Ok((left, right));
        }
        Err(no_product())
    }

    /// A linear layer: a product with a weight, and a bias.
    pub(super) fn dense(&self, value: &'a str) -> Result<DenseAt<'a>, Fault> {
        self.linear(value).map_err(NotLinear::fault)
    }

    fn linear(&self, value: &'a str) -> Result<DenseAt<'a>, NotLinear> {
        let node = self.node(value).map_err(NotLinear::Faulty)?;
        self.expect(value, "Add", "a linear layer's bias").map_err(NotLinear::Other)?;
        let (product, bias) = self
            .split(value, "Add", |bias| self.is_vector(bias))
            .ok_or_else(|| NotLinear::Other(format!("{node} adds no bias where a linear layer was expected")))?;
        match self.product(product).map_err(NotLinear::Faulty)? {
            (Side::Activation(input), Side::Weight(weight)) => Ok(DenseAt { input, weight, bias }),
            _ => Err(NotLinear::Other(format!("{node} stands where a linear layer was expected"))),
        }
    }

    /// A linear layer's result and what it is added to.
    pub(super) fn residual(&self, value: &'a str) -> Result<(DenseAt<'a>, &'a str), Fault> {
        let node = self.expect(value, "Add", "a residual sum")?;
        let [(a, b), _] = self.pair(node)?;
        match (self.linear(a), self.linear(b)) {
            (Ok(dense), _) => Ok((dense, b)),
            (_, Ok(dense)) => Ok((dense, a)),
            (Err(NotLinear::Faulty(fault)), Err(_)) => Err(fault),
            (Err(NotLinear::Other(_)), Err(fault)) => Err(fault.fault()),
        }
    }

    /// GELU with the error function: what it is of. Its factors may come in any order.
    pub(super) fn gelu(&self, value: &'a str) -> Result<&'a str, Fault> {
        let node = self.expect(value, "Mul", "GELU")?;
        let mut factors = Vec::new();
        for &factor in &node.inputs {
            match self.node(factor) {
                Ok(Node { op: "Mul", inputs, .. }) => factors.extend(inputs.iter().copied()),
                _ => factors.push(factor),
            }
        }
        let error_function = |factor: &'a str| -> Option<&'a str> {
            let (erf, one) = self.split(factor, "Add", |one| self.number(one).is_some())?;
            let erf = self.expect(erf, "Erf", "").ok()?;
            let divide = self.expect(erf.inputs.first()?, "Div", "").ok()?;
            let root = self.number(divide.inputs.get(1)?)?;
            let is_gelu = self.number(one)? == 1.0 && (root - std::f32::consts::SQRT_2).abs() < 1e-6;
            is_gelu.then(|| divide.inputs.first().copied()).flatten()
        };
        let source = factors.iter().find_map(|factor| error_function(factor));
        let half = factors.iter().any(|factor| self.number(factor) == Some(0.5));
        match source {
            Some(source) if half && factors.len() == 3 && factors.contains(&source) => Ok(source),
            _ => Err(format!("{node} stands where GELU (with Erf) was expected")),
        }
    }
}

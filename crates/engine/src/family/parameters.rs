//! The parameters of an architecture, out of named tensors.

use std::fmt;

use super::architecture::{Architecture, BiasSource, FeedForwardNames, Half, Linear, NormTensors, Projection, Table};
use crate::error::{Error, Result};
use text2vec_kernel::{Block, Dense, ExpertShape, Experts, HeadNorms, Norm, Outer, PositionBias, Shape};

/// A tensor in f32: its shape and its values, row-major.
pub type NamedTensor = (Vec<usize>, Vec<f32>);

/// The parameters of an architecture out of a source of tensors, which is told the name and the shape wanted. Each tensor
/// is asked for once; one of another shape is an error that names it; a missing one is the source's error.
pub struct Parameters<'a, F> {
    architecture: &'a Architecture,
    source: F,
}

impl<'a, F: FnMut(&str, &[usize]) -> Result<NamedTensor>> Parameters<'a, F> {
    /// Reads from `source`.
    pub fn new(architecture: &'a Architecture, source: F) -> Self {
        Parameters { architecture, source }
    }

    /// What the model has once.
    ///
    /// # Errors
    /// `Unusable` for a tensor of another shape, and what the source says.
    pub fn outer(&mut self) -> Result<Outer> {
        let Architecture { tables, embedding_norm, embedding_projection, position_bias, final_norm, shape, .. } =
            self.architecture;
        let width = self.architecture.table_width();
        Ok(Outer {
            tables: tables.iter().map(|table| self.table(table)).collect::<Result<_>>()?,
            embedding_norm: embedding_norm.map(|name| self.norm(name, width)).transpose()?,
            embedding_projection: match *embedding_projection {
                Some((width, linear)) => Some(self.dense(linear.name, linear, shape.hidden, width)?),
                None => None,
            },
            position_bias: match *position_bias {
                Some(BiasSource::Table { name, buckets, max_distance }) => {
                    Some(PositionBias::Learned { values: self.tensor(name, &[buckets, shape.heads])?, max_distance })
                }
                Some(BiasSource::Alibi) => Some(PositionBias::alibi(shape.heads)),
                None => None,
            },
            rotaries: self.architecture.rotaries.clone(),
            order: self.architecture.order.clone(),
            final_norm: final_norm.map(|name| self.norm(name, shape.hidden)).transpose()?,
        })
    }

    /// What a block has.
    ///
    /// # Errors
    /// As [`Parameters::outer`].
    pub fn block(&mut self, layer: usize) -> Result<Block> {
        let Architecture { shape, names, .. } = self.architecture;
        let hidden = shape.hidden;
        let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
        let [query, key, value] = self.projection(layer)?;
        let head_norms = match names.head_norms {
            Some(norms) => {
                let size = shape.head_size();
                let widths = match norms.over_all_heads {
                    true => [shape.attention_width(), shape.key_width()],
                    false => [size; 2],
                };
                let query = self.norm(&name(norms.query), widths[0])?;
                Some(HeadNorms { query, key: self.norm(&name(norms.key), widths[1])? })
            }
            None => None,
        };
        let output = names.attention_output;
        let attention_output = self.dense(&name(output.name), output, hidden, shape.attention_width())?;
        let mut optional = |part: Option<&str>| part.map(|part| self.norm(&name(part), hidden)).transpose();
        let attention_norm = optional(Some(names.attention_norm).filter(|_| layer >= names.attention_norm_from))?;
        let attention_second_norm = optional(names.attention_second_norm)?;
        let attention_output_norm = optional(names.attention_output_norm)?;
        let feed_forward_norm = optional(names.feed_forward_norm)?;
        let (up, gate, down) = match shape.experts(layer) {
            Some(_) => (Dense::default(), None, Dense::default()),
            None => self.feed_forward(layer)?,
        };
        let experts = shape.experts(layer).map(|shape| self.experts(layer, shape)).transpose()?;
        let attention = self.architecture.attention(layer);
        Ok(Block {
            query,
            key,
            value,
            head_norms,
            rotary: attention.rotary,
            mask: attention.mask,
            attention_output,
            attention_norm,
            attention_second_norm,
            attention_output_norm,
            up,
            gate,
            down,
            experts,
            output_norm: self.norm(&name(names.output_norm), hidden)?,
            feed_forward_norm,
        })
    }

    fn projection(&mut self, layer: usize) -> Result<[Dense; 3]> {
        let Architecture { shape, names, .. } = self.architecture;
        let widths = [shape.attention_width(), shape.key_width(), shape.key_width()];
        let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
        match names.projection {
            Projection::Separate([query, key, value]) => Ok([
                self.dense(&name(query.name), query, widths[0], shape.hidden)?,
                self.dense(&name(key.name), key, widths[1], shape.hidden)?,
                self.dense(&name(value.name), value, widths[2], shape.hidden)?,
            ]),
            Projection::Fused(fused) => {
                let mut rest = self.dense(&name(fused.name), fused, shape.projected_width(), shape.hidden)?;
                let key_and_value = rest.split_off(widths[0], shape.hidden);
                let query = std::mem::replace(&mut rest, key_and_value);
                let value = rest.split_off(widths[1], shape.hidden);
                Ok([query, rest, value])
            }
        }
    }

    fn feed_forward(&mut self, layer: usize) -> Result<(Dense, Option<Dense>, Dense)> {
        let Architecture { shape: Shape { hidden, intermediate, .. }, names, .. } = self.architecture;
        let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
        match names.feed_forward {
            FeedForwardNames::Separate { up, gate, down } => {
                let first = self.dense(&name(up.name), up, *intermediate, *hidden)?;
                let gate = match gate {
                    Some(gate) => Some(self.dense(&name(gate.name), gate, *intermediate, *hidden)?),
                    None => None,
                };
                Ok((first, gate, self.dense(&name(down.name), down, *hidden, *intermediate)?))
            }
            FeedForwardNames::Fused { both, activated, down } => {
                let mut first = self.dense(&name(both.name), both, 2 * intermediate, *hidden)?;
                let mut second = first.split_off(*intermediate, *hidden);
                if activated == Half::Second {
                    std::mem::swap(&mut first, &mut second);
                }
                Ok((first, Some(second), self.dense(&name(down.name), down, *hidden, *intermediate)?))
            }
        }
    }

    fn experts(&mut self, layer: usize, shape: ExpertShape) -> Result<Experts> {
        let Architecture { shape: Shape { hidden, intermediate, .. }, names, .. } = self.architecture;
        let (hidden, intermediate) = (*hidden, *intermediate);
        let Some(parts) = names.experts else { return Err(Error::internal("a mixture of experts without names")) };
        let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
        let router = self.tensor(&name(parts.router), &[shape.count, hidden])?;
        let stacked = [shape.count * intermediate, hidden];
        let up = self.tensor(&name(parts.up), &stacked)?;
        let down = self.tensor(&name(parts.down), &stacked)?;
        let each = |values: Vec<f32>| -> Vec<Vec<f32>> {
            values.chunks_exact(intermediate * hidden).map(<[f32]>::to_vec).collect()
        };
        let turned = |values: Vec<f32>| {
            let value = |at: usize| values[at % intermediate * hidden + at / intermediate];
            (0..values.len()).map(value).collect()
        };
        let without_bias = |weight: Vec<f32>| Dense { weight, bias: Vec::new() };
        Ok(Experts {
            router: without_bias(router),
            up: each(up).into_iter().map(without_bias).collect(),
            down: each(down).into_iter().map(|values| without_bias(turned(values))).collect(),
            bias: self.tensor(&name(parts.bias), &[hidden])?,
        })
    }

    fn table(&mut self, table: &Table) -> Result<Vec<f32>> {
        let shape = [table.rows, self.architecture.table_width()];
        let scale = self.architecture.table_scale;
        let mut missing = None;
        for name in table.names {
            match (self.source)(name, &shape) {
                Ok(tensor) => {
                    let mut values = checked(name, tensor, &shape)?;
                    if scale != 1.0 {
                        values.iter_mut().for_each(|value| *value *= scale);
                    }
                    return Ok(values);
                }
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        Err(missing.unwrap_or_else(|| Error::internal("an embedding table without a name")))
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        checked(name, (self.source)(name, shape)?, shape)
    }

    fn dense(&mut self, name: &str, linear: Linear, outputs: usize, inputs: usize) -> Result<Dense> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = match linear.biased {
            true => self.tensor(&format!("{name}.bias"), &[outputs])?,
            false => Vec::new(),
        };
        Ok(Dense { weight, bias })
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<Norm> {
        let NormTensors { without_beta, one_and } = self.architecture.norms;
        let mut gamma = self.tensor(&format!("{name}.weight"), &[width])?;
        if one_and {
            gamma.iter_mut().for_each(|value| *value += 1.0);
        }
        let beta = match (self.architecture.shape.style.rms_norm, without_beta) {
            (true, _) => Vec::new(),
            (false, true) => vec![0.0; width],
            (false, false) => self.tensor(&format!("{name}.bias"), &[width])?,
        };
        Ok(Norm { gamma, beta })
    }
}

impl<F> fmt::Debug for Parameters<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameters").field("architecture", &self.architecture).finish_non_exhaustive()
    }
}

fn checked(name: &str, (found, values): NamedTensor, shape: &[usize]) -> Result<Vec<f32>> {
    if found != shape || found.iter().product::<usize>() != values.len() {
        return Err(Error::unusable(format!(
            "the tensor '{name}' has the shape {found:?} where config.json asks for {shape:?}"
        )));
    }
    Ok(values)
}

//! A block: attention of several heads and a feed-forward, each with a residual sum and a norm.

use text2vec_kernel::quantized::ScoreScale;

use super::super::reader::{Fault, Node};
use super::operations::Side;
use super::parts::{DenseAt, Layer, NormAt};
use super::walk::Walk;

/// Queries, keys or values of all heads.
struct Projection<'a> {
    dense: DenseAt<'a>,
    scale: Option<&'a str>,
    heads: usize,
    width: usize,
}

const MATRIX_OF_HEADS: [usize; 4] = [0, 2, 1, 3];
const TRANSPOSED_HEADS: [usize; 4] = [0, 2, 3, 1];

impl<'a> Walk<'a> {
    /// A block that ends in the given sum and norm: its parts, what it takes, its heads and their width.
    pub(super) fn layer(
        &self,
        sum: &'a str,
        output_norm: NormAt<'a>,
    ) -> Result<(Layer<'a>, &'a str, usize, usize), Fault> {
        let (down, attended) = self.residual(sum)?;
        let up = self.dense(self.gelu(down.input)?)?;
        if up.input != attended {
            return Err(format!("the feed-forward of '{sum}' does not begin where its residual does"));
        }
        let (sum, attention_norm) = self.norm(attended)?;
        let (attention_output, input) = self.residual(sum)?;
        let reshape = self.expect(attention_output.input, "Reshape", "the heads' contexts side by side")?;
        let transpose = self.expect(self.input(reshape, 0)?, "Transpose", "the heads' contexts")?;
        if transpose.ints("perm") != Some(&[0, 2, 1, 3]) {
            return Err(format!("{transpose} orders the heads' contexts in another way than expected"));
        }
        let (Side::Activation(probabilities), Side::Activation(values)) = self.product(self.input(transpose, 0)?)?
        else {
            return Err(format!("{transpose} has no attention before it"));
        };
        let softmax = self.expect(probabilities, "Softmax", "the attention's softmax")?;
        if softmax.int("axis").unwrap_or(-1) != -1 {
            return Err(format!("{softmax} is over another axis than the last"));
        }
        let add = self.expect(self.input(softmax, 0)?, "Add", "scores and mask")?;
        let (scores, _) = self
            .pair(add)?
            .into_iter()
            .find(|(_, mask)| self.is_mask(mask))
            .ok_or_else(|| format!("{add} adds something else than the attention mask to the scores"))?;
        let (scores, score_scale) = self.scaled_scores(scores)?;
        let (Side::Activation(queries), Side::Activation(keys)) = self.product(scores)? else {
            return Err(format!("{add} has no scores before it"));
        };
        let query = self.projection(queries, MATRIX_OF_HEADS)?;
        let key = self.projection(keys, TRANSPOSED_HEADS)?;
        let value = self.projection(values, MATRIX_OF_HEADS)?;
        let (heads, width) = (query.heads, query.width);
        for projection in [&query, &key, &value] {
            if (projection.heads, projection.width) != (heads, width) || projection.dense.input != input {
                return Err(format!("queries, keys and values of '{sum}' do not belong together"));
            }
        }
        if let Some(scale) = value.scale {
            return Err(format!("the values are multiplied by '{scale}', which is not supported"));
        }
        let scale = |projection: &Projection<'a>| {
            projection.scale.map(|scale| self.scalar(scale, projection.width, 16)).transpose()
        };
        let layer = Layer {
            query_scale: scale(&query)?,
            key_scale: scale(&key)?,
            query: query.dense,
            key: key.dense,
            value: value.dense,
            score_scale,
            attention_output,
            attention_norm,
            up,
            down,
            output_norm,
        };
        Ok((layer, input, heads, width))
    }

    /// What comes from the attention mask alone is 0 everywhere, as no text is padded.
    fn is_mask(&self, value: &str) -> bool {
        let ancestors = self.graph.ancestors(value);
        let masked = |node: &&Node<'_>| node.inputs.contains(&"attention_mask");
        ancestors.iter().any(masked) && !ancestors.iter().any(|node| node.op.starts_with("MatMul"))
    }

    fn scaled_scores(&self, value: &'a str) -> Result<(&'a str, ScoreScale), Fault> {
        let node = self.node(value)?;
        let factor = |index: usize| node.inputs.get(index).and_then(|input| self.number(input));
        match (node.op, factor(0), factor(1)) {
            ("Div", None, Some(divisor)) => Ok((self.input(node, 0)?, ScoreScale::Divide(divisor))),
            ("Mul", None, Some(factor)) => Ok((self.input(node, 0)?, ScoreScale::Multiply(factor))),
            ("Mul", Some(factor), None) => Ok((self.input(node, 1)?, ScoreScale::Multiply(factor))),
            _ => Ok((value, ScoreScale::None)),
        }
    }

    /// Queries, keys or values of all heads, from the linear layer that makes them, in the given order of axes.
    fn projection(&self, value: &'a str, order: [usize; 4]) -> Result<Projection<'a>, Fault> {
        let (mut at, mut scale) = (value, None);
        let mut axes = [0, 1, 2, 3];
        // A scale, a transposition or two, a reshape.
        for _ in 0..4 {
            let node = self.node(at)?;
            match node.op {
                "Mul" if scale.is_none() => {
                    let pair = self.pair(node)?;
                    let is_scale = |factor: &str| {
                        self.number(factor).is_some() || self.node_op(factor).is_some_and(|op| op == "Sqrt")
                    };
                    let Some((rest, factor)) = pair.into_iter().find(|(_, factor)| is_scale(factor)) else { break };
                    (at, scale) = (rest, Some(factor));
                }
                "Transpose" => {
                    let wrong = || format!("{node} has no order of four axes");
                    let given = node.ints("perm").filter(|given| given.len() == 4).ok_or_else(wrong)?;
                    let mut composed = [0; 4];
                    for (to, &from) in composed.iter_mut().zip(&axes) {
                        *to = usize::try_from(given[from]).ok().filter(|&axis| axis < 4).ok_or_else(wrong)?;
                    }
                    axes = composed;
                    at = self.input(node, 0)?;
                }
                "Reshape" => {
                    if axes != order {
                        return Err(format!("the heads behind {node} are ordered {axes:?}, not {order:?}"));
                    }
                    let (heads, width) = self.heads(node)?;
                    let dense = self.dense(self.input(node, 0)?)?;
                    return Ok(Projection { dense, scale, heads, width });
                }
                _ => break,
            }
        }
        Err(format!("{} stands where queries, keys or values were expected", self.node(at)?))
    }

    /// Into how many heads of which width a node reshapes.
    fn heads(&self, reshape: &Node<'a>) -> Result<(usize, usize), Fault> {
        let unknown = || format!("{reshape} has no fixed number of heads");
        let shape = self.input(reshape, 1)?;
        let sizes: Vec<Option<i64>> = match self.graph.constant(shape) {
            Some(shape) => shape.integers()?.into_iter().map(Some).collect(),
            None => {
                let concat = self.expect(shape, "Concat", "a shape")?;
                let one = |part: &&'a str| match self.graph.constant(part)?.integers().ok()?[..] {
                    [size] => Some(size),
                    _ => None,
                };
                concat.inputs.iter().map(one).collect()
            }
        };
        match sizes[..] {
            [_, _, Some(heads), Some(width)] if (1..=4096).contains(&heads) && (1..=4096).contains(&width) => {
                Ok((heads as usize, width as usize))
            }
            _ => Err(unknown()),
        }
    }

    /// A number that depends on nothing but a head's width.
    fn scalar(&self, value: &'a str, width: usize, depth: usize) -> Result<f32, Fault> {
        if let Some(number) = self.number(value) {
            return Ok(number);
        }
        let node = self.node(value)?;
        let no_number = || format!("{node} stands where a head's scale was expected");
        let depth = depth.checked_sub(1).ok_or_else(no_number)?;
        let operand = |index| self.scalar(self.input(node, index)?, width, depth);
        match node.op {
            "Sqrt" => Ok(operand(0)?.sqrt()),
            "Div" => Ok(operand(0)? / operand(1)?),
            "Mul" => Ok(operand(0)? * operand(1)?),
            "Cast" => operand(0),
            "Slice" => {
                // The last size of the heads' shape.
                let shape = self.expect(self.input(node, 0)?, "Shape", "the shape of the heads")?;
                let heads = self.expect(self.input(shape, 0)?, "Transpose", "the heads")?;
                let starts = self.tensor(self.input(node, 1)?)?.integers()?;
                let ends = self.tensor(self.input(node, 2)?)?.integers()?;
                if heads.ints("perm") != Some(&[0, 2, 1, 3])
                    || starts != [-1]
                    || ends.first().is_none_or(|&end| end < 4)
                {
                    return Err(no_number());
                }
                Ok(width as f32)
            }
            _ => Err(no_number()),
        }
    }
}

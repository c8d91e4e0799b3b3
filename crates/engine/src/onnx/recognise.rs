//! Which encoder a graph is: BERT and its relatives as optimum exports them and ONNX Runtime's dynamic quantisation
//! leaves them. Weights are found by walking from the output to the inputs, whatever their names.

use super::reader::{Fault, Graph, Node, Tensor};
use text2vec_kernel::Norm;
use text2vec_kernel::quantized::{QuantizedBlock, QuantizedDense, QuantizedTable, ScoreScale};

/// A quantised encoder, found in a graph.
#[derive(Debug)]
pub struct Recognised<'a> {
    /// Attention heads.
    pub heads: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Width between the feed-forward matrices.
    pub intermediate: usize,
    /// LayerNorm's epsilon.
    pub epsilon: f32,
    /// Embedding tables in the order in which their rows are added.
    pub tables: Vec<Table<'a>>,
    /// The norm of the embeddings.
    pub embedding_norm: NormAt<'a>,
    /// The blocks, the first one first.
    pub layers: Vec<Layer<'a>>,
}

/// What chooses a row of an embedding table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// The token's id.
    Tokens,
    /// The token's type.
    Types,
    /// Always the first row: there is one type only.
    First,
    /// The token's place, from 0.
    Positions,
    /// As RoBERTa counts: padding has its own id as position, all others count on from there.
    PositionsBehind(u32),
}

/// A quantised embedding table.
#[derive(Debug)]
pub struct Table<'a> {
    /// What chooses the row.
    pub rows: Rows,
    weight: Weight<'a>,
}

/// A norm's parameters.
#[derive(Debug, Clone, Copy)]
pub struct NormAt<'a> {
    gamma: &'a str,
    beta: &'a str,
    epsilon: f32,
}

/// Names of a quantised weight's parts.
#[derive(Debug, Clone, Copy)]
struct Weight<'a> {
    codes: &'a str,
    scale: &'a str,
    zero_point: &'a str,
}

/// A linear layer's parts, and what it is applied to.
#[derive(Debug, Clone, Copy)]
struct DenseAt<'a> {
    input: &'a str,
    weight: Weight<'a>,
    bias: &'a str,
}

/// A block's parts.
#[derive(Debug)]
pub struct Layer<'a> {
    query: DenseAt<'a>,
    key: DenseAt<'a>,
    value: DenseAt<'a>,
    query_scale: Option<f32>,
    key_scale: Option<f32>,
    score_scale: ScoreScale,
    attention_output: DenseAt<'a>,
    attention_norm: NormAt<'a>,
    up: DenseAt<'a>,
    down: DenseAt<'a>,
    output_norm: NormAt<'a>,
}

/// One side of a quantised product.
enum Side<'a> {
    /// Quantised when the text is there: the value it is made from.
    Activation(&'a str),
    Weight(Weight<'a>),
}

/// Queries, keys or values of all heads.
struct Projection<'a> {
    dense: DenseAt<'a>,
    scale: Option<&'a str>,
    heads: usize,
    width: usize,
}

/// Finds the encoder of a graph. The fault names the node that does not fit.
pub fn recognise<'a>(graph: &'a Graph<'a>) -> Result<Recognised<'a>, Fault> {
    let walk = Walk { graph };
    let output = *graph.outputs.first().ok_or("the graph has no output")?;
    let mut layers = Vec::new();
    let mut sizes = None;
    let (sum, mut norm) = walk.norm(output)?;
    let mut sum = sum;
    while !walk.is_embedding(sum) {
        let (layer, input, heads, width) = walk.layer(sum, norm)?;
        if sizes.replace((heads, width)).is_some_and(|other| other != (heads, width)) {
            return Err("its layers have different numbers of heads".into());
        }
        layers.push(layer);
        (sum, norm) = walk.norm(input)?;
    }
    layers.reverse();
    let Some((heads, width)) = sizes else { return Err("it has no layers".into()) };
    let epsilons = layers.iter().flat_map(|layer| [layer.attention_norm.epsilon, layer.output_norm.epsilon]);
    if epsilons.into_iter().any(|epsilon| epsilon != norm.epsilon) {
        return Err("its norms have different epsilons, which is not supported".into());
    }
    let intermediate = walk.tensor(layers[0].up.bias)?.shape.iter().product();
    let tables = walk.tables(sum)?;
    let hidden = heads.checked_mul(width).ok_or("its heads are too wide")?;
    Ok(Recognised { heads, hidden, intermediate, epsilon: norm.epsilon, tables, embedding_norm: norm, layers })
}

impl Table<'_> {
    /// Reads the table: its codes, `hidden` wide.
    pub fn read(&self, graph: &Graph<'_>, hidden: usize) -> Result<QuantizedTable, Fault> {
        let walk = Walk { graph };
        let codes = walk.tensor(self.weight.codes)?;
        if codes.shape.len() != 2 || codes.shape[1] != hidden {
            return Err(format!(
                "the table '{}' has the shape {:?} where {hidden} columns belong",
                codes.name, codes.shape
            ));
        }
        let (scale, zero_point) = walk.scale(&self.weight)?;
        Ok(QuantizedTable { codes: codes.codes()?, scale, zero_point })
    }
}

impl NormAt<'_> {
    /// Reads gamma and beta.
    pub fn read(&self, graph: &Graph<'_>) -> Result<Norm, Fault> {
        let walk = Walk { graph };
        let read = |name| Ok::<_, Fault>(walk.tensor(name)?.floats()?.into_owned());
        Ok(Norm { gamma: read(self.gamma)?, beta: read(self.beta)? })
    }
}

impl DenseAt<'_> {
    fn read(&self, graph: &Graph<'_>, inputs: usize, outputs: usize) -> Result<QuantizedDense, Fault> {
        let walk = Walk { graph };
        let codes = walk.tensor(self.weight.codes)?;
        if codes.shape != [inputs, outputs] {
            return Err(format!(
                "the weight '{}' has the shape {:?} where {:?} belongs",
                codes.name,
                codes.shape,
                [inputs, outputs]
            ));
        }
        let (scale, zero_point) = walk.scale(&self.weight)?;
        let bias = walk.tensor(self.bias)?.floats()?.into_owned();
        Ok(QuantizedDense { codes: codes.codes()?, scale, zero_point, bias })
    }
}

impl Layer<'_> {
    /// Reads the block's weights.
    pub fn read(&self, graph: &Graph<'_>, hidden: usize, intermediate: usize) -> Result<QuantizedBlock, Fault> {
        Ok(QuantizedBlock {
            query: self.query.read(graph, hidden, hidden)?,
            key: self.key.read(graph, hidden, hidden)?,
            value: self.value.read(graph, hidden, hidden)?,
            query_scale: self.query_scale,
            key_scale: self.key_scale,
            score_scale: self.score_scale,
            attention_output: self.attention_output.read(graph, hidden, hidden)?,
            attention_norm: self.attention_norm.read(graph)?,
            up: self.up.read(graph, hidden, intermediate)?,
            down: self.down.read(graph, intermediate, hidden)?,
            output_norm: self.output_norm.read(graph)?,
        })
    }
}

/// From a value back to what it is made of.
struct Walk<'a> {
    graph: &'a Graph<'a>,
}

const MATRIX_OF_HEADS: [usize; 4] = [0, 2, 1, 3];
const TRANSPOSED_HEADS: [usize; 4] = [0, 2, 3, 1];

impl<'a> Walk<'a> {
    fn tensor(&self, value: &str) -> Result<&'a Tensor<'a>, Fault> {
        self.graph.constant(value).ok_or_else(|| format!("there is no weight '{value}'"))
    }

    /// The node that makes a value, seen through nodes that change nothing.
    fn node(&self, value: &'a str) -> Result<&'a Node<'a>, Fault> {
        let mut node = self.graph.producer(value);
        while let Some(Node { op: "Identity", inputs, .. }) = node {
            node = inputs.first().and_then(|input| self.graph.producer(input));
        }
        node.ok_or_else(|| format!("'{value}' is an input or a weight where a result was expected"))
    }

    fn expect(&self, value: &'a str, op: &str, part: &str) -> Result<&'a Node<'a>, Fault> {
        let node = self.node(value)?;
        if node.op != op {
            return Err(format!("{node} stands where {part} was expected"));
        }
        Ok(node)
    }

    fn input(&self, node: &Node<'a>, index: usize) -> Result<&'a str, Fault> {
        node.inputs.get(index).copied().filter(|name| !name.is_empty()).ok_or_else(|| format!("{node} lacks an input"))
    }

    /// Both inputs of a node whose order means nothing.
    fn pair(&self, node: &Node<'a>) -> Result<[(&'a str, &'a str); 2], Fault> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        Ok([(a, b), (b, a)])
    }

    fn is_vector(&self, value: &str) -> bool {
        self.graph.constant(value).is_some_and(|tensor| tensor.shape.len() == 1)
    }

    /// A constant of one value.
    fn number(&self, value: &str) -> Option<f32> {
        match self.graph.constant(value)?.floats().ok()?.as_ref() {
            [number] => Some(*number),
            _ => None,
        }
    }

    /// A LayerNorm, in one node or in nine: what it norms, and its parameters.
    fn norm(&self, value: &'a str) -> Result<(&'a str, NormAt<'a>), Fault> {
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

    /// The two inputs of a node, the second one being as wanted.
    fn split(&self, value: &'a str, op: &str, wanted: impl Fn(&str) -> bool) -> Option<(&'a str, &'a str)> {
        let node = self.expect(value, op, "").ok()?;
        self.pair(node).ok()?.into_iter().find(|(_, second)| wanted(second))
    }

    /// A product of codes, brought back to f32.
    fn product(&self, value: &'a str) -> Result<(Side<'a>, Side<'a>), Fault> {
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
    fn dense(&self, value: &'a str) -> Result<DenseAt<'a>, Fault> {
        let node = self.expect(value, "Add", "a linear layer's bias")?;
        let (product, bias) = self
            .split(value, "Add", |bias| self.is_vector(bias))
            .ok_or_else(|| format!("{node} adds no bias where a linear layer was expected"))?;
        match self.product(product)? {
            (Side::Activation(input), Side::Weight(weight)) => Ok(DenseAt { input, weight, bias }),
            _ => Err(format!("{node} stands where a linear layer was expected")),
        }
    }

    /// A linear layer's result and what it is added to.
    fn residual(&self, value: &'a str) -> Result<(DenseAt<'a>, &'a str), Fault> {
        let node = self.expect(value, "Add", "a residual sum")?;
        let [(a, b), _] = self.pair(node)?;
        match (self.dense(a), self.dense(b)) {
            (Ok(dense), _) => Ok((dense, b)),
            (_, Ok(dense)) => Ok((dense, a)),
            (Err(fault), Err(other)) => Err(if fault.contains("a linear layer") { other } else { fault }),
        }
    }

    /// A block that ends in the given sum and norm: its parts, what it takes, its heads and their width.
    fn layer(&self, sum: &'a str, output_norm: NormAt<'a>) -> Result<(Layer<'a>, &'a str, usize, usize), Fault> {
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

    /// GELU with the error function: what it is of. Its factors may come in any order.
    fn gelu(&self, value: &'a str) -> Result<&'a str, Fault> {
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

    fn node_op(&self, value: &str) -> Option<&'a str> {
        self.graph.producer(value).map(|node| node.op)
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

    /// Whether a value is a sum of embedding rows.
    fn is_embedding(&self, value: &'a str) -> bool {
        let leaf = |value: &'a str| matches!(self.node_op(value), Some("DequantizeLinear" | "Gather"));
        let children = self.node(value).map(|node| node.inputs.as_slice()).unwrap_or_default();
        leaf(value) || children.iter().any(|child| leaf(child))
    }

    /// The tables whose rows are added, in that order.
    fn tables(&self, sum: &'a str) -> Result<Vec<Table<'a>>, Fault> {
        let mut rest = sum;
        let mut tables = Vec::new();
        // Adding is from the inside out, and either side may be the inner one.
        for _ in 0..3 {
            if self.node_op(rest) != Some("Add") {
                break;
            }
            let [(a, b), _] = self.pair(self.node(rest)?)?;
            let (inner, leaf) = if self.node_op(b) == Some("Add") { (b, a) } else { (a, b) };
            tables.push(self.table(leaf)?);
            rest = inner;
        }
        tables.push(self.table(rest)?);
        tables.reverse();
        let count = |wanted: fn(Rows) -> bool| tables.iter().filter(|table| wanted(table.rows)).count();
        let words = count(|rows| rows == Rows::Tokens);
        let positions = count(|rows| matches!(rows, Rows::Positions | Rows::PositionsBehind(_)));
        if (words, positions) != (1, 1) || tables.len() > 3 {
            return Err(format!("'{sum}' is not the sum of word, position and token type embeddings"));
        }
        Ok(tables)
    }

    fn table(&self, value: &'a str) -> Result<Table<'a>, Fault> {
        let dequantize = self.expect(value, "DequantizeLinear", "a quantised embedding")?;
        let gather = self.expect(self.input(dequantize, 0)?, "Gather", "an embedding table")?;
        if gather.int("axis").is_some_and(|axis| axis != 0) {
            return Err(format!("{gather} gathers along another axis than the first"));
        }
        let weight = Weight {
            codes: self.input(gather, 0)?,
            scale: self.input(dequantize, 1)?,
            zero_point: self.input(dequantize, 2)?,
        };
        self.tensor(weight.codes)?;
        Ok(Table { rows: self.rows(self.input(gather, 1)?)?, weight })
    }

    /// What an embedding's rows are chosen by.
    fn rows(&self, index: &'a str) -> Result<Rows, Fault> {
        match index {
            "input_ids" => return Ok(Rows::Tokens),
            "token_type_ids" => return Ok(Rows::Types),
            _ => {}
        }
        let unknown = || format!("'{index}' chooses embeddings in a way that is not supported");
        let ancestors = self.graph.ancestors(index);
        if ancestors.iter().any(|node| node.op == "CumSum") {
            // Padding's id is compared with the ids and added at the end.
            let compared = ancestors.iter().find(|node| node.op == "Equal" && node.inputs.contains(&"input_ids"));
            let one = |value: &&str| match self.graph.constant(value)?.integers().ok()?[..] {
                [number] => u32::try_from(number).ok(),
                _ => None,
            };
            let padding = compared.and_then(|node| node.inputs.iter().find_map(&one));
            let last = self.expect(index, "Add", "positions behind the padding's")?;
            let added = last.inputs.iter().find_map(one);
            return match (padding, added) {
                (Some(padding), Some(added)) if padding == added => Ok(Rows::PositionsBehind(padding)),
                _ => Err(unknown()),
            };
        }
        // A constant, cut to the text's length and repeated for each text.
        let mut at = index;
        for _ in 0..8 {
            if let Some(constant) = self.graph.constant(at) {
                let numbers = constant.integers()?;
                if numbers.iter().all(|&number| number == 0) {
                    return Ok(Rows::First);
                }
                let counts = numbers.iter().enumerate().all(|(place, &number)| place as i64 == number);
                return if counts { Ok(Rows::Positions) } else { Err(unknown()) };
            }
            let node = self.node(at)?;
            if !matches!(node.op, "Slice" | "Expand" | "Unsqueeze" | "Reshape" | "Cast") {
                break;
            }
            if node.op == "Slice"
                && self.graph.constant(self.input(node, 1)?).is_none_or(|from| from.integers() != Ok(vec![0]))
            {
                break;
            }
            at = self.input(node, 0)?;
        }
        Err(unknown())
    }

    /// A weight's scale and zero point, in signed codes.
    fn scale(&self, weight: &Weight<'_>) -> Result<(f32, i32), Fault> {
        let (scale, zero_point) = (self.tensor(weight.scale)?, self.tensor(weight.zero_point)?);
        match (scale.floats()?.as_ref(), &zero_point.codes()?[..]) {
            ([scale], [zero_point_code]) => {
                if zero_point.element_type() != self.tensor(weight.codes)?.element_type() {
                    return Err(format!("the zero point of '{}' is of another type", weight.codes));
                }
                Ok((*scale, i32::from(*zero_point_code)))
            }
            _ => Err(format!(
                "the weight '{}' has a scale per channel: only one scale per weight is supported",
                weight.codes
            )),
        }
    }
}

//! ONNX files: as much of the protocol buffer as a quantised encoder needs, read without trust and without copying
//! weights.
//!
//! Field numbers are those of `onnx.proto`. Unknown fields are skipped, as the format wants it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Most nodes and weights of a graph; the largest encoders have some 5,000.
const MOST_ENTRIES: usize = 200_000;
/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;

/// What is wrong with a file, for the caller to name the file.
pub type Fault = String;

/// A graph whose weights lie in the file's bytes.
#[derive(Debug, Default)]
pub struct Graph<'a> {
    /// In an order in which each comes after those it needs.
    pub nodes: Vec<Node<'a>>,
    /// Weights and other constants by name.
    pub tensors: HashMap<&'a str, Tensor<'a>>,
    /// Names of the inputs, weights excepted.
    pub inputs: Vec<&'a str>,
    /// Names of the outputs.
    pub outputs: Vec<&'a str>,
    /// The node that makes each value.
    producers: HashMap<&'a str, usize>,
}

/// An operation.
#[derive(Debug, Default)]
pub struct Node<'a> {
    /// Its name, perhaps empty.
    pub name: &'a str,
    /// What it does, such as `MatMulInteger`.
    pub op: &'a str,
    /// Names of the values it takes; an empty one is left out.
    pub inputs: Vec<&'a str>,
    /// Names of the values it makes.
    pub outputs: Vec<&'a str>,
    attributes: Vec<Attribute<'a>>,
}

#[derive(Debug, Default)]
struct Attribute<'a> {
    name: &'a str,
    float: Option<f32>,
    int: Option<i64>,
    ints: Vec<i64>,
    tensor: Option<Tensor<'a>>,
}

/// Element types, as the format numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// 1
    F32,
    /// 2
    U8,
    /// 3
    I8,
    /// 6
    I32,
    /// 7
    I64,
    /// Any other.
    Other(i64),
}

/// A constant.
#[derive(Debug, Clone, Default)]
pub struct Tensor<'a> {
    /// Its name, perhaps empty.
    pub name: &'a str,
    /// Its size in each dimension; none for a scalar.
    pub shape: Vec<usize>,
    element_type: i64,
    raw: &'a [u8],
    floats: Vec<f32>,
    ints: Vec<i64>,
    external: bool,
}

/// Reads a model file.
///
/// # Errors
/// In words, what is wrong: it is cut off, no ONNX file, larger than any encoder, or its nodes are in no order.
pub fn read(bytes: &[u8]) -> Result<Graph<'_>, Fault> {
    let mut graph = None;
    for field in Fields(bytes) {
        if let (7, Value::Bytes(bytes)) = field? {
            if graph.is_some() {
                return Err("it has two graphs".into());
            }
            graph = Some(read_graph(bytes)?);
        }
    }
    let mut graph = graph.ok_or("it has no graph: it is not an ONNX file")?;
    graph.check_order()?;
    Ok(graph)
}

fn read_graph(bytes: &[u8]) -> Result<Graph<'_>, Fault> {
    let mut graph = Graph::default();
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(bytes)) => graph.nodes.push(read_node(bytes)?),
            (5, Value::Bytes(bytes)) => {
                let tensor = read_tensor(bytes)?;
                if let Some(tensor) = graph.tensors.insert(tensor.name, tensor) {
                    return Err(format!("the weight '{}' is there twice", tensor.name));
                }
            }
            (11, Value::Bytes(bytes)) => graph.inputs.push(value_name(bytes)?),
            (12, Value::Bytes(bytes)) => graph.outputs.push(value_name(bytes)?),
            (15, _) => return Err("it has sparse weights, which are not supported".into()),
            _ => {}
        }
        if graph.nodes.len().max(graph.tensors.len()).max(graph.inputs.len()) > MOST_ENTRIES {
            return Err(format!("it has more than {MOST_ENTRIES} nodes or weights"));
        }
    }
    // Old files list weights among the inputs.
    let Graph { inputs, tensors, .. } = &mut graph;
    inputs.retain(|input| !tensors.contains_key(input));
    Ok(graph)
}

fn value_name(bytes: &[u8]) -> Result<&str, Fault> {
    let mut name = "";
    for field in Fields(bytes) {
        if let (1, Value::Bytes(bytes)) = field? {
            name = text(bytes)?;
        }
    }
    Ok(name)
}

fn read_node(bytes: &[u8]) -> Result<Node<'_>, Fault> {
    let mut node = Node::default();
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(bytes)) => node.inputs.push(text(bytes)?),
            (2, Value::Bytes(bytes)) => node.outputs.push(text(bytes)?),
            (3, Value::Bytes(bytes)) => node.name = text(bytes)?,
            (4, Value::Bytes(bytes)) => node.op = text(bytes)?,
            (5, Value::Bytes(bytes)) => node.attributes.push(read_attribute(bytes)?),
            _ => {}
        }
    }
    Ok(node)
}

fn read_attribute(bytes: &[u8]) -> Result<Attribute<'_>, Fault> {
    let mut attribute = Attribute::default();
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(bytes)) => attribute.name = text(bytes)?,
            (2, Value::Word(bits)) => attribute.float = Some(f32::from_bits(bits)),
            (3, Value::Number(number)) => attribute.int = Some(number as i64),
            (5, Value::Bytes(bytes)) => attribute.tensor = Some(read_tensor(bytes)?),
            (8, value) => numbers(value, &mut attribute.ints)?,
            _ => {}
        }
    }
    Ok(attribute)
}

fn read_tensor(bytes: &[u8]) -> Result<Tensor<'_>, Fault> {
    let mut tensor = Tensor::default();
    let mut shape = Vec::new();
    for field in Fields(bytes) {
        match field? {
            (1, value) => numbers(value, &mut shape)?,
            (2, Value::Number(number)) => tensor.element_type = number as i64,
            (4, Value::Bytes(bytes)) if bytes.len() % 4 == 0 => {
                let words = bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]));
                tensor.floats.extend(words);
            }
            (4, Value::Word(bits)) => tensor.floats.push(f32::from_bits(bits)),
            (5 | 7, value) => numbers(value, &mut tensor.ints)?,
            (8, Value::Bytes(bytes)) => tensor.name = text(bytes)?,
            (9, Value::Bytes(bytes)) => tensor.raw = bytes,
            (13, _) => tensor.external = true,
            (14, Value::Number(place)) => tensor.external |= place != 0,
            _ => {}
        }
    }
    let sized = shape.len() <= MOST_DIMENSIONS && shape.iter().all(|&size| (0..=i64::from(i32::MAX)).contains(&size));
    if !sized {
        return Err(format!("the weight '{}' has the shape {shape:?}", tensor.name));
    }
    tensor.shape = shape.into_iter().map(|size| size as usize).collect();
    Ok(tensor)
}

impl<'a> Graph<'a> {
    /// Finds what makes each value, and refuses a graph in which something is needed before it is made: such a graph
    /// has no end or no beginning.
    fn check_order(&mut self) -> Result<(), Fault> {
        let mut known: HashSet<&str> = self.inputs.iter().chain(self.tensors.keys()).copied().collect();
        for (index, node) in self.nodes.iter().enumerate() {
            if let Some(missing) = node.inputs.iter().find(|input| !input.is_empty() && !known.contains(*input)) {
                return Err(format!("{node} needs '{missing}', which neither a weight nor a node before it gives"));
            }
            for output in node.outputs.iter().filter(|output| !output.is_empty()) {
                if !known.insert(output) {
                    return Err(format!("'{output}' is made twice"));
                }
                self.producers.insert(output, index);
            }
        }
        Ok(())
    }

    /// The node that makes a value.
    pub fn producer(&self, value: &str) -> Option<&Node<'a>> {
        self.producers.get(value).map(|&index| &self.nodes[index])
    }

    /// A value that is a constant: a weight, or what a `Constant` node holds.
    pub fn constant(&self, value: &str) -> Option<&Tensor<'a>> {
        self.tensors.get(value).or_else(|| self.producer(value)?.constant())
    }

    /// All nodes that a value comes from, the nearest first.
    pub fn ancestors(&self, value: &str) -> Vec<&Node<'a>> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let mut waiting: Vec<usize> = self.producers.get(value).copied().into_iter().collect();
        while let Some(index) = waiting.pop() {
            if seen.insert(index) {
                let node = &self.nodes[index];
                found.push(node);
                waiting.extend(node.inputs.iter().filter_map(|input| self.producers.get(input)));
            }
        }
        found
    }
}

impl std::fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.name.is_empty() { self.outputs.first().copied().unwrap_or_default() } else { self.name };
        write!(f, "the node '{name}' ({})", self.op)
    }
}

impl<'a> Node<'a> {
    fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// An attribute that is a number.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name)?.int
    }

    /// An attribute that is an f32.
    pub fn float(&self, name: &str) -> Option<f32> {
        self.attribute(name)?.float
    }

    /// An attribute that is a list of numbers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    fn constant(&self) -> Option<&Tensor<'a>> {
        (self.op == "Constant").then(|| self.attribute("value")?.tensor.as_ref()).flatten()
    }
}

impl<'a> Tensor<'a> {
    /// Its element type.
    pub fn element_type(&self) -> ElementType {
        match self.element_type {
            1 => ElementType::F32,
            2 => ElementType::U8,
            3 => ElementType::I8,
            6 => ElementType::I32,
            7 => ElementType::I64,
            other => ElementType::Other(other),
        }
    }

    /// Its bytes, if that is how its values are stored, checked against its shape.
    fn raw(&self, width: usize) -> Result<Option<&'a [u8]>, Fault> {
        let count = self.count(width)?;
        if self.raw.is_empty() && (count == 0 || !self.floats.is_empty() || !self.ints.is_empty()) {
            return Ok(None);
        }
        if self.raw.len() != count * width {
            return Err(self.wrong_size(self.raw.len() / width));
        }
        Ok(Some(self.raw))
    }

    fn count(&self, width: usize) -> Result<usize, Fault> {
        if self.external {
            return Err(format!("the weight '{}' is in another file, which is not supported", self.name));
        }
        let count = self.shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        count
            .filter(|count| count.checked_mul(width).is_some())
            .ok_or_else(|| format!("the weight '{}' has the shape {:?}", self.name, self.shape))
    }

    fn wrong_size(&self, found: usize) -> Fault {
        format!("the weight '{}' has the shape {:?} but {found} values", self.name, self.shape)
    }

    fn wrong_type(&self, wanted: &str) -> Fault {
        format!("the weight '{}' is of type {:?} where {wanted} belongs", self.name, self.element_type())
    }

    /// Its values as f32.
    ///
    /// # Errors
    /// In words, if it is of another type, in another file, or has not as many values as its shape.
    pub fn floats(&self) -> Result<Cow<'_, [f32]>, Fault> {
        if self.element_type() != ElementType::F32 {
            return Err(self.wrong_type("f32"));
        }
        let values = match self.raw(4)? {
            Some(raw) => {
                Cow::Owned(raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            None => Cow::Borrowed(self.floats.as_slice()),
        };
        if values.len() != self.count(4)? {
            return Err(self.wrong_size(values.len()));
        }
        Ok(values)
    }

    /// Its values as whole numbers, of any whole type.
    ///
    /// # Errors
    /// As [`Tensor::floats`].
    pub fn integers(&self) -> Result<Vec<i64>, Fault> {
        let width = match self.element_type() {
            ElementType::U8 | ElementType::I8 => 1,
            ElementType::I32 => 4,
            ElementType::I64 => 8,
            ElementType::F32 | ElementType::Other(_) => return Err(self.wrong_type("a whole number")),
        };
        let values: Vec<i64> = match self.raw(width)? {
            Some(raw) if self.element_type() == ElementType::I8 => raw.iter().map(|&b| i64::from(b as i8)).collect(),
            Some(raw) => raw
                .chunks_exact(width)
                .map(|bytes| {
                    let number = bytes.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
                    if width == 4 { i64::from(number as u32 as i32) } else { number as i64 }
                })
                .collect(),
            None => self.ints.clone(),
        };
        if values.len() != self.count(width)? {
            return Err(self.wrong_size(values.len()));
        }
        Ok(values)
    }

    /// Its values as signed codes: unsigned ones are given less 128.
    ///
    /// # Errors
    /// As [`Tensor::floats`].
    pub fn codes(&self) -> Result<Vec<i8>, Fault> {
        let flip = match self.element_type() {
            ElementType::U8 => 0x80,
            ElementType::I8 => 0,
            _ => return Err(self.wrong_type("u8 or i8")),
        };
        let codes: Vec<i8> = match self.raw(1)? {
            Some(raw) => raw.iter().map(|&byte| (byte ^ flip) as i8).collect(),
            None => self.ints.iter().map(|&number| (number as u8 ^ flip) as i8).collect(),
        };
        if codes.len() != self.count(1)? {
            return Err(self.wrong_size(codes.len()));
        }
        Ok(codes)
    }
}

/// A field's value.
enum Value<'a> {
    Number(u64),
    Word(u32),
    Bytes(&'a [u8]),
    /// A number of 64 bits, which no field we know has.
    Long,
}

/// The fields of a message, by number.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Result<u64, Fault> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or("it is cut off")?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("it is not an ONNX file: a number does not end".into())
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], Fault> {
        let (taken, rest) = usize::try_from(count)
            .ok()
            .and_then(|count| self.0.split_at_checked(count))
            .ok_or("it is cut off: a field is longer than what is left")?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Fault> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => {
                self.take(8)?;
                Value::Long
            }
            2 => {
                let length = self.number()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Word(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            _ => return Err("it is not an ONNX file: a field is of no known kind".into()),
        };
        Ok((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Numbers of a repeated field, packed or one by one.
fn numbers(value: Value<'_>, to: &mut Vec<i64>) -> Result<(), Fault> {
    match value {
        Value::Number(number) => to.push(number as i64),
        Value::Bytes(bytes) => {
            let mut fields = Fields(bytes);
            while !fields.0.is_empty() {
                to.push(fields.number()? as i64);
            }
        }
        Value::Word(_) | Value::Long => return Err("it is not an ONNX file: a list of numbers holds others".into()),
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| "it is not an ONNX file: a name is not UTF-8".into())
}

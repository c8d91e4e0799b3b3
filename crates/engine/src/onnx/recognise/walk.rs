//! Steps from a value of a graph back to what it is made of, whatever it is.

use super::super::reader::{Fault, Graph, Node, Tensor};

/// From a value back to what it is made of.
pub(super) struct Walk<'a> {
    pub(super) graph: &'a Graph<'a>,
}

impl<'a> Walk<'a> {
    pub(super) fn tensor(&self, value: &str) -> Result<&'a Tensor<'a>, Fault> {
        self.graph.constant(value).ok_or_else(|| format!("there is no weight '{value}'"))
    }

    /// The node that makes a value, seen through nodes that change nothing.
    pub(super) fn node(&self, value: &'a str) -> Result<&'a Node<'a>, Fault> {
        let mut node = self.graph.producer(value);
        while let Some(Node { op: "Identity", inputs, .. }) = node {
            node = inputs.first().and_then(|input| self.graph.producer(input));
        }
        node.ok_or_else(|| format!("'{value}' is an input or a weight where a result was expected"))
    }

    pub(super) fn expect(&self, value: &'a str, op: &str, part: &str) -> Result<&'a Node<'a>, Fault> {
        let node = self.node(value)?;
        if node.op != op {
            return Err(format!("{node} stands where {part} was expected"));
        }
        Ok(node)
    }

    pub(super) fn input(&self, node: &Node<'a>, index: usize) -> Result<&'a str, Fault> {
        node.inputs.get(index).copied().filter(|name| !name.is_empty()).ok_or_else(|| format!("{node} lacks an input"))
    }

    /// Both inputs of a node whose order means nothing.
    pub(super) fn pair(&self, node: &Node<'a>) -> Result<[(&'a str, &'a str); 2], Fault> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        Ok([(a, b), (b, a)])
    }

    pub(super) fn is_vector(&self, value: &str) -> bool {
        self.graph.constant(value).is_some_and(|tensor| tensor.shape.len() == 1)
    }

    /// A constant of one value.
    pub(super) fn number(&self, value: &str) -> Option<f32> {
        match self.graph.constant(value)?.floats().ok()?.as_ref() {
            [number] => Some(*number),
            _ => None,
        }
    }

    /// The two inputs of a node, the second one being as wanted.
    pub(super) fn split(&self, value: &'a str, op: &str, wanted: impl Fn(&str) -> bool) -> Option<(&'a str, &'a str)> {
        let node = self.expect(value, op, "").ok()?;
        self.pair(node).ok()?.into_iter().find(|(_, second)| wanted(second))
    }

    pub(super) fn node_op(&self, value: &str) -> Option<&'a str> {
        self.graph.producer(value).map(|node| node.op)
    }
}

//! The pickle inside a file of `torch.save`, as far as a dictionary of tensors needs it. Nothing is executed.
//!
//! A pickle is a program for a stack machine that may call any Python function. This machine knows containers, numbers,
//! strings and a few names, whose "calls" only note down what the tensor looks like. Any other name is refused.
//!
//! Work and memory grow with the length of the pickle alone: values are shared by index into lists that only grow, so
//! that neither a loop nor deep nesting costs a recursion, and numbers in the pickle never become sizes of allocations.

mod machine;
mod value;

use std::collections::HashMap;

use self::machine::Machine;
use self::value::{Heap, Value};
pub use self::value::{PickledTensor, Storage};

/// What a pickle holds.
#[derive(Debug)]
pub struct Pickle<'a> {
    root: Value<'a>,
    heap: Heap<'a>,
}

impl<'a> Pickle<'a> {
    /// Reads one pickle from the beginning of `bytes`, and how many bytes it has.
    ///
    /// # Errors
    /// In words, what is wrong: it is cut off, damaged, or calls what no dictionary of tensors needs.
    pub fn read(bytes: &'a [u8]) -> Result<(Pickle<'a>, usize), String> {
        let (root, heap, length) = Machine::run(bytes)?;
        Ok((Pickle { root, heap }, length))
    }

    /// The tensors of the dictionary that this pickle must be, without other values. Of two with one name the last counts.
    ///
    /// # Errors
    /// In words, if it is no dictionary, or has no tensors.
    pub fn tensors(&self) -> Result<HashMap<&'a str, &PickledTensor<'a>>, String> {
        let mut tensors = HashMap::new();
        for (key, value) in self.entries()? {
            if let (Value::Text(name), Value::Tensor(index)) = (key, value) {
                tensors.insert(*name, &self.heap.tensors[*index]);
            }
        }
        if tensors.is_empty() {
            return Err("it holds no tensors by name: is it a training checkpoint?".into());
        }
        Ok(tensors)
    }

    /// A true or false value of the dictionary that this pickle must be.
    ///
    /// # Errors
    /// In words, if it is no dictionary.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        let found = self.entries()?.iter().rev().find(|(key, _)| matches!(key, Value::Text(text) if *text == name));
        Ok(found.and_then(|(_, value)| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }))
    }

    /// The strings of the list that this pickle must be.
    ///
    /// # Errors
    /// In words, if it is no list, or holds something else.
    pub fn strings(&self) -> Result<Vec<&'a str>, String> {
        let Value::List(list) = self.root else { return Err("its list of storages is none".into()) };
        let text = |value: &Value<'a>| match value {
            Value::Text(text) => Ok(*text),
            _ => Err("its list of storages holds something else".to_owned()),
        };
        self.heap.lists[list].iter().map(text).collect()
    }

    fn entries(&self) -> Result<&[(Value<'a>, Value<'a>)], String> {
        match self.root {
            Value::Dict(dict) => Ok(&self.heap.dicts[dict]),
            _ => Err("it is not a dictionary of tensors".into()),
        }
    }
}

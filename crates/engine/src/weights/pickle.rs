//! The pickle inside a file of `torch.save`, as far as a dictionary of tensors needs it. Nothing is executed.
//!
//! A pickle is a program for a stack machine that may call any Python function. This machine knows containers, numbers,
//! strings and a few names, whose "calls" only note down what the tensor looks like. Any other name is refused.
//!
//! Work and memory grow with the length of the pickle alone: values are shared by index into lists that only grow, so
//! that neither a loop nor deep nesting costs a recursion, and numbers in the pickle never become sizes of allocations.

use std::collections::HashMap;

/// What a pickle holds.
#[derive(Debug)]
pub struct Pickle<'a> {
    root: Value<'a>,
    heap: Heap<'a>,
}

/// A tensor as the pickle describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PickledTensor<'a> {
    /// Where its numbers are.
    pub storage: Storage<'a>,
    /// First number in the storage.
    pub offset: usize,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Distance of neighbours in each dimension, in numbers.
    pub strides: Vec<usize>,
}

/// A run of numbers kept outside the pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage<'a> {
    /// Its name in the file.
    pub key: &'a str,
    /// Name of the torch class, such as `FloatStorage`.
    pub class: &'static str,
    /// Numbers in it, as the pickle has it.
    pub length: usize,
}

/// Torch's classes of storage, one per type of number.
const STORAGES: [&str; 10] = [
    "FloatStorage",
    "HalfStorage",
    "BFloat16Storage",
    "DoubleStorage",
    "LongStorage",
    "IntStorage",
    "ShortStorage",
    "CharStorage",
    "ByteStorage",
    "BoolStorage",
];

/// No weight has more dimensions.
const MOST_DIMENSIONS: usize = 8;

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Text(&'a str),
    /// Floats, bytes and long integers: allowed beside tensors, without meaning here.
    Other,
    Tuple(usize),
    List(usize),
    Dict(usize),
    Function(Function),
    Storage(usize),
    Tensor(usize),
}

/// The names a pickle may use.
#[derive(Debug, Clone, Copy)]
enum Function {
    StorageClass(&'static str),
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
}

impl Function {
    fn find(module: &str, name: &str) -> Result<Function, String> {
        let storage = STORAGES.iter().find(|&&class| class == name);
        match (module, name, storage) {
            ("torch", _, Some(class)) => Ok(Function::StorageClass(class)),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2", _) => Ok(Function::RebuildTensor),
            ("torch._utils", "_rebuild_parameter", _) => Ok(Function::RebuildParameter),
            ("collections", "OrderedDict", _) => Ok(Function::OrderedDict),
            _ => {
                let shown = |text: &str| text.chars().take(60).collect::<String>().escape_debug().to_string();
                Err(format!(
                    "it uses {}.{}, which no dictionary of tensors needs; nothing was run",
                    shown(module),
                    shown(name)
                ))
            }
        }
    }
}

#[derive(Debug, Default)]
struct Heap<'a> {
    tuples: Vec<Vec<Value<'a>>>,
    lists: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage<'a>>,
    tensors: Vec<PickledTensor<'a>>,
}

impl<'a> Pickle<'a> {
    /// Reads one pickle from the beginning of `bytes`, and how many bytes it has.
    ///
    /// # Errors
    /// In words, what is wrong: it is cut off, damaged, or calls what no dictionary of tensors needs.
    pub fn read(bytes: &'a [u8]) -> Result<(Pickle<'a>, usize), String> {
        let mut machine =
            Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), heap: Heap::default() };
        while machine.step()? {}
        let root = machine.pop()?;
        Ok((Pickle { root, heap: machine.heap }, machine.at))
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

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    heap: Heap<'a>,
}

fn malformed() -> String {
    "its pickle is malformed".into()
}

impl<'a> Machine<'a> {
    /// Runs one instruction; false is the end.
    fn step(&mut self) -> Result<bool, String> {
        let instruction = self.number::<1>()?[0];
        match instruction {
            0x80 => _ = self.take(1)?, // PROTO
            0x95 => _ = self.take(8)?, // FRAME
            b'.' => return Ok(false),  // STOP
            b'(' => self.marks.push(self.stack.len()),
            b'0' => _ = self.pop()?,      // POP
            b'1' => _ = self.pop_mark()?, // POP_MARK
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.number()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.number::<1>()?[0];
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.number()?);
                self.stack.push(Value::Int(value.into()));
            }
            0x8a => {
                // LONG1
                let length = self.number::<1>()?[0].into();
                self.long(length)?;
            }
            b'G' => {
                // BINFLOAT
                self.take(8)?;
                self.stack.push(Value::Other);
            }
            b'U' | 0x8c => {
                // SHORT_BINSTRING, SHORT_BINUNICODE
                let length = self.number::<1>()?[0].into();
                self.text(length)?;
            }
            b'T' | b'X' => {
                // BINSTRING, BINUNICODE
                let length = u32::from_le_bytes(self.number()?) as usize;
                self.text(length)?;
            }
            b'C' => {
                // SHORT_BINBYTES
                let length = self.number::<1>()?[0].into();
                self.take(length)?;
                self.stack.push(Value::Other);
            }
            b'B' => {
                // BINBYTES
                let length = u32::from_le_bytes(self.number()?) as usize;
                self.take(length)?;
                self.stack.push(Value::Other);
            }
            b')' => self.push_tuple(Vec::new()),
            0x85..=0x87 => {
                // TUPLE1 to TUPLE3
                let items = self.pop_many(usize::from(instruction - 0x84))?;
                self.push_tuple(items);
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push_tuple(items);
            }
            b']' => self.push_list(Vec::new()),
            b'l' => {
                let items = self.pop_mark()?;
                self.push_list(items);
            }
            b'a' => {
                let items = self.pop_many(1)?;
                self.append(items)?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b'}' => self.push_dict(),
            b's' => {
                let items = self.pop_many(2)?;
                self.set(&items)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set(&items)?;
            }
            b'c' | b'i' => {
                // GLOBAL; INST is refused by the name it calls, or, should that be a known one, below.
                let (module, name) = (self.line()?, self.line()?);
                let function = Function::find(module, name)?;
                if instruction == b'i' {
                    return Err(malformed());
                }
                self.stack.push(Value::Function(function));
            }
            0x93 => {
                // STACK_GLOBAL
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else { return Err(malformed()) };
                self.stack.push(Value::Function(Function::find(module, name)?));
            }
            b'Q' => self.storage()?, // BINPERSID
            b'R' => self.reduce()?,
            b'b' => {
                // BUILD: attributes of a dictionary, such as the version numbers of its modules.
                self.pop()?;
                if !matches!(self.stack.last(), Some(Value::Dict(_))) {
                    return Err(malformed());
                }
            }
            b'q' => {
                let key = self.number::<1>()?[0].into();
                self.remember(key)?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.number()?);
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = self.number::<1>()?[0].into();
                self.recall(key)?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.number()?);
                self.recall(key)?;
            }
            other => {
                return Err(format!(
                    "its pickle has the instruction {other:#04x}, which no dictionary of tensors needs"
                ));
            }
        }
        Ok(true)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let taken = self.bytes[self.at..].get(..length).ok_or("its pickle is cut off")?;
        self.at += length;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| malformed())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n').ok_or("its pickle is cut off")?;
        let line = self.take(length)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| malformed())
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| malformed())?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    /// A little-endian integer of two's complement. One beyond 64 bits cannot belong to a tensor.
    fn long(&mut self, length: usize) -> Result<(), String> {
        let digits = self.take(length)?;
        let negative = digits.last().is_some_and(|&top| top >= 0x80);
        let mut bytes = [if negative { 0xFF } else { 0 }; 8];
        self.stack.push(match bytes.get_mut(..length) {
            Some(low) => {
                low.copy_from_slice(digits);
                Value::Int(i64::from_le_bytes(bytes))
            }
            None => Value::Other,
        });
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        // What lies below a mark is not to be had.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(malformed());
        }
        self.stack.pop().ok_or_else(malformed)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value<'a>>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(count).filter(|&from| from >= floor).ok_or_else(malformed)?;
        Ok(self.stack.split_off(from))
    }

    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let from = self.marks.pop().ok_or_else(malformed)?;
        Ok(self.stack.split_off(from))
    }

    fn push_tuple(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::Tuple(self.heap.tuples.len()));
        self.heap.tuples.push(items);
    }

    fn push_list(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::List(self.heap.lists.len()));
        self.heap.lists.push(items);
    }

    fn push_dict(&mut self) {
        self.stack.push(Value::Dict(self.heap.dicts.len()));
        self.heap.dicts.push(Vec::new());
    }

    fn append(&mut self, items: Vec<Value<'a>>) -> Result<(), String> {
        let Some(&Value::List(list)) = self.stack.last() else { return Err(malformed()) };
        self.heap.lists[list].extend(items);
        Ok(())
    }

    fn set(&mut self, items: &[Value<'a>]) -> Result<(), String> {
        let Some(&Value::Dict(dict)) = self.stack.last() else { return Err(malformed()) };
        let (pairs, []) = items.as_chunks::<2>() else { return Err(malformed()) };
        self.heap.dicts[dict].extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        let value = *self.stack.last().ok_or_else(malformed)?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let value = *self.memo.get(&key).ok_or_else(malformed)?;
        self.stack.push(value);
        Ok(())
    }

    fn pop_tuple(&mut self) -> Result<Vec<Value<'a>>, String> {
        let Value::Tuple(tuple) = self.pop()? else { return Err(malformed()) };
        // Longer ones belong to no call known here, and copying them again and again would take its time.
        match &self.heap.tuples[tuple] {
            items if items.len() <= MOST_DIMENSIONS => Ok(items.clone()),
            items => Err(format!("its pickle has a tuple of {} values where a few are expected", items.len())),
        }
    }

    /// `('storage', class, key, device, length)`, before torch 1.6 with a view `(key, offset, length)` or `None` more.
    fn storage(&mut self) -> Result<(), String> {
        let items = self.pop_tuple()?;
        let [
            Value::Text("storage"),
            Value::Function(Function::StorageClass(class)),
            Value::Text(key),
            _,
            length,
            view @ ..,
        ] = &items[..]
        else {
            return Err("its pickle refers to something that is not a storage".into());
        };
        if !matches!(view, [] | [Value::None]) {
            return Err("its pickle has a view of a storage: save the model again with a newer torch".into());
        }
        let storage = Storage { key, class, length: whole(*length)? };
        self.stack.push(Value::Storage(self.heap.storages.len()));
        self.heap.storages.push(storage);
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), String> {
        let arguments = self.pop_tuple()?;
        let Value::Function(function) = self.pop()? else { return Err(malformed()) };
        match (function, &arguments[..]) {
            (Function::OrderedDict, []) => self.push_dict(),
            (Function::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => self.stack.push(*tensor),
            (Function::RebuildTensor, [Value::Storage(storage), offset, shape, strides, ..]) => {
                let tensor = PickledTensor {
                    storage: self.heap.storages[*storage],
                    offset: whole(*offset)?,
                    shape: self.sizes(*shape)?,
                    strides: self.sizes(*strides)?,
                };
                if tensor.shape.len() != tensor.strides.len() {
                    return Err(malformed());
                }
                self.stack.push(Value::Tensor(self.heap.tensors.len()));
                self.heap.tensors.push(tensor);
            }
            _ => return Err("its pickle makes a tensor in an unknown way".into()),
        }
        Ok(())
    }

    fn sizes(&self, value: Value<'a>) -> Result<Vec<usize>, String> {
        match value {
            Value::Tuple(tuple) if self.heap.tuples[tuple].len() <= MOST_DIMENSIONS => {
                self.heap.tuples[tuple].iter().map(|&size| whole(size)).collect()
            }
            _ => Err(malformed()),
        }
    }
}

fn whole(value: Value<'_>) -> Result<usize, String> {
    match value {
        Value::Int(number) => usize::try_from(number).map_err(|_| malformed()),
        _ => Err(malformed()),
    }
}

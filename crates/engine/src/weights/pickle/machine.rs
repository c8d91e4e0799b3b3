//! The stack machine whose program a pickle is.

use std::collections::HashMap;

use super::value::{Function, Heap, PickledTensor, Storage, Value};

/// No weight has more dimensions.
const MOST_DIMENSIONS: usize = 8;

/// See the module.
pub(super) struct Machine<'a> {
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
    /// Runs a pickle from its beginning to its end: its value, what that is made of, and how many bytes it has.
    pub(super) fn run(bytes: &'a [u8]) -> Result<(Value<'a>, Heap<'a>, usize), String> {
        let mut machine =
            Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), heap: Heap::default() };
        while machine.step()? {}
        let root = machine.pop()?;
        Ok((root, machine.heap, machine.at))
    }

    /// Runs one instruction; false is the end.
    fn step(&mut self) -> Result<bool, String> {
        let instruction = self.byte()?;
        match instruction {
            0x80 => _ = self.take(1)?, // PROTO
            0x95 => _ = self.take(8)?, // FRAME
            b'.' => return Ok(false),  // STOP
            b'(' => self.marks.push(self.stack.len()),
            b'0' => _ = self.pop()?,      // POP
            b'1' => _ = self.pop_mark()?, // POP_MARK
            other => {
                let known = self.scalar(other)? || self.container(other)? || self.call(other)? || self.memo(other)?;
                if !known {
                    return Err(format!(
                        "its pickle has the instruction {other:#04x}, which no dictionary of tensors needs"
                    ));
                }
            }
        }
        Ok(true)
    }

    /// An instruction with a number, a text or nothing. Answers whether it is one.
    fn scalar(&mut self, instruction: u8) -> Result<bool, String> {
        let value = match instruction {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i32::from_le_bytes(self.number()?).into()),
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.number()?).into()),
            0x8a => self.long()?, // LONG1
            b'G' => {
                // BINFLOAT
                self.take(8)?;
                Value::Other
            }
            b'U' | 0x8c => {
                // SHORT_BINSTRING, SHORT_BINUNICODE
                let length = self.byte()?.into();
                self.text(length)?
            }
            b'T' | b'X' => {
                // BINSTRING, BINUNICODE
                let length = self.word()? as usize;
                self.text(length)?
            }
            b'C' => {
                // SHORT_BINBYTES
                let length = self.byte()?.into();
                self.take(length)?;
                Value::Other
            }
            b'B' => {
                // BINBYTES
                let length = self.word()? as usize;
                self.take(length)?;
                Value::Other
            }
            _ => return Ok(false),
        };
        self.stack.push(value);
        Ok(true)
    }

    /// An instruction that makes or fills a tuple, a list or a dictionary. Answers whether it is one.
    fn container(&mut self, instruction: u8) -> Result<bool, String> {
        match instruction {
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// An instruction that names a function, or "calls" one. Answers whether it is one.
    fn call(&mut self, instruction: u8) -> Result<bool, String> {
        match instruction {
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// An instruction that notes down the last value, or brings one back. Answers whether it is one.
    fn memo(&mut self, instruction: u8) -> Result<bool, String> {
        match instruction {
            b'q' => {
                let key = self.byte()?.into();
                self.remember(key)?;
            }
            b'r' => {
                let key = self.word()?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = self.byte()?.into();
                self.recall(key)?;
            }
            b'j' => {
                let key = self.word()?;
                self.recall(key)?;
            }
            _ => return Ok(false),
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

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.number::<1>()?[0])
    }

    fn word(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n').ok_or("its pickle is cut off")?;
        let line = self.take(length)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| malformed())
    }

    fn text(&mut self, length: usize) -> Result<Value<'a>, String> {
        std::str::from_utf8(self.take(length)?).map(Value::Text).map_err(|_| malformed())
    }

    /// A length, and so many bytes of a little-endian integer of two's complement. One beyond 64 bits cannot belong to a tensor.
    fn long(&mut self) -> Result<Value<'a>, String> {
        let length = usize::from(self.byte()?);
        let digits = self.take(length)?;
        let negative = digits.last().is_some_and(|&top| top >= 0x80);
        let mut bytes = [if negative { 0xFF } else { 0 }; 8];
        Ok(match bytes.get_mut(..length) {
            Some(low) => {
                low.copy_from_slice(digits);
                Value::Int(i64::from_le_bytes(bytes))
            }
            None => Value::Other,
        })
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

//! The values that a pickle makes, and the names that it may use.

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

/// A value on the machine's stack. What it is made of lies in the heap.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
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
pub(super) enum Function {
    StorageClass(&'static str),
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
}

impl Function {
    /// The function of this name.
    ///
    /// # Errors
    /// In words, if no dictionary of tensors needs it.
    pub(super) fn find(module: &str, name: &str) -> Result<Function, String> {
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

/// What values are made of, by index.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    pub(super) tuples: Vec<Vec<Value<'a>>>,
    pub(super) lists: Vec<Vec<Value<'a>>>,
    pub(super) dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<PickledTensor<'a>>,
}

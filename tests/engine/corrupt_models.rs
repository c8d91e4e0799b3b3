//! Model directories that cannot be used: each is a clear error that names what is wrong, never a panic, and the binary
//! ends with a status that is not 0.

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use support::weight_files::{Tensor, read_safetensors, safetensors, state_dict, torch_file, with_header, zip};
use text2vec_sidecar::backend::local::{LocalBackend, LocalOptions};

fn fixture_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentence_transformers/model")
}

/// A good model in a directory of its own, for a case to damage.
struct Model {
    dir: tempfile::TempDir,
    tensors: Vec<Tensor>,
}

impl Model {
    fn new() -> Model {
        let dir = tempfile::tempdir().expect("a directory");
        for entry in fs::read_dir(fixture_model()).expect("the model") {
            let path = entry.expect("an entry").path();
            fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("copy");
        }
        Model { dir, tensors: read_safetensors(&fixture_model().join("model.safetensors")) }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.dir.path().join(name), content).expect("write");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).expect("remove");
    }

    /// Puts torch's kind of file in place of safetensors.
    fn write_bin(&self, content: impl AsRef<[u8]>) {
        self.remove("model.safetensors");
        self.write("pytorch_model.bin", content);
    }

    fn write_safetensors(&self, tensors: &[Tensor]) {
        self.write("model.safetensors", safetensors(tensors));
    }

    fn config(&self, key: &str, value: Value) {
        let path = self.dir.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
        config[key] = value;
        fs::write(path, config.to_string()).expect("write");
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect(name)
    }

    fn load(&self) -> Result<LocalBackend, String> {
        LocalBackend::load(&LocalOptions::new(self.dir.path())).map_err(|error| error.message().to_owned())
    }
}

const WORDS: &str = "embeddings.word_embeddings.weight";
const QUERY: &str = "encoder.layer.1.attention.self.query.weight";

/// A file of torch.save whose pickle is this.
fn pickled(pickle: &[u8]) -> Vec<u8> {
    zip(&[("model/data.pkl".to_owned(), pickle.to_vec())])
}

type Case = (&'static str, fn(&mut Model), &'static [&'static str]);

const CASES: &[Case] = &[
    (
        "safetensors cut off",
        |m| {
            let whole = safetensors(&m.tensors);
            m.write("model.safetensors", &whole[..whole.len() - 100]);
        },
        &["model.safetensors", "the tensor '", "cut off"],
    ),
    ("empty safetensors", |m| m.write("model.safetensors", ""), &["model.safetensors", "header"]),
    (
        "a header longer than the file",
        |m| {
            let mut file = safetensors(&m.tensors);
            file[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
            m.write("model.safetensors", file);
        },
        &["model.safetensors", "header claims 1099511627776 bytes"],
    ),
    (
        "a header that is not JSON",
        |m| m.write("model.safetensors", with_header("{'a'}", b"")),
        &["model.safetensors", "JSON"],
    ),
    (
        "a shape that lies about its bytes",
        |m| {
            let header = json!({WORDS: {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 8]}}).to_string();
            m.write("model.safetensors", with_header(&header, &[0; 8]));
        },
        &["model.safetensors", WORDS, "[3, 4]"],
    ),
    (
        "a shape beyond all numbers",
        |m| {
            let size = u64::MAX / 2;
            let header = json!({WORDS: {"dtype": "F32", "shape": [size, size], "data_offsets": [0, 8]}}).to_string();
            m.write("model.safetensors", with_header(&header, &[0; 8]));
        },
        &["model.safetensors", WORDS],
    ),
    (
        "tensors that overlap",
        |m| {
            let entry = |from: u64| json!({"dtype": "F32", "shape": [2], "data_offsets": [from, from + 8]});
            m.write("model.safetensors", with_header(&json!({WORDS: entry(0), "b": entry(4)}).to_string(), &[0; 12]));
        },
        &["model.safetensors", "overlaps"],
    ),
    (
        "offsets from back to front",
        |m| {
            let header = json!({WORDS: {"dtype": "F32", "shape": [], "data_offsets": [8, 4]}}).to_string();
            m.write("model.safetensors", with_header(&header, &[0; 8]));
        },
        &["model.safetensors", WORDS],
    ),
    (
        "a tensor is missing",
        |m| {
            m.tensors.retain(|tensor| tensor.name != QUERY);
            m.write_safetensors(&m.tensors);
        },
        &["model.safetensors", QUERY],
    ),
    (
        "a tensor of another shape",
        |m| {
            m.tensor(QUERY).shape = vec![12, 48];
            m.write_safetensors(&m.tensors);
        },
        &[QUERY, "[12, 48]"],
    ),
    (
        "a tensor of integers",
        |m| {
            m.tensor(QUERY).dtype = "I32";
            m.write_safetensors(&m.tensors);
        },
        &["model.safetensors", QUERY, "I32"],
    ),
    (
        "a weight that is not a number",
        |m| {
            m.tensor(QUERY).bytes[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
            m.write_safetensors(&m.tensors);
        },
        &["model.safetensors", QUERY, "NaN at position 10"],
    ),
    (
        "an infinite weight",
        |m| {
            m.tensor(WORDS).bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
            m.write_safetensors(&m.tensors);
        },
        &["model.safetensors", WORDS, "inf at position 0"],
    ),
    (
        "weights of another architecture",
        |m| m.write_safetensors(&[Tensor::f32("transformer.h.0.attn.weight", &[1], [0.0])]),
        &["model.safetensors", "another architecture"],
    ),
    ("vocab_size above the table", |m| m.config("vocab_size", json!(9999)), &[WORDS, "9999"]),
    (
        "a vocabulary larger than the model's",
        |m| {
            let path = m.dir.path().join("vocab.txt");
            let words = fs::read_to_string(&path).expect("read") + "one\nmore\n";
            fs::write(path, words).expect("write");
        },
        &["vocab_size", "different models"],
    ),
    ("no config.json", |m| m.remove("config.json"), &["config.json"]),
    ("config.json is a list", |m| m.write("config.json", "[]"), &["config.json"]),
    ("config.json ends early", |m| m.write("config.json", "{\"model_type\": \"bert\""), &["config.json"]),
    ("an unknown architecture", |m| m.config("model_type", json!("mamba")), &["mamba"]),
    ("a size below zero", |m| m.config("hidden_size", json!(-24)), &["hidden_size", "-24"]),
    ("no heads", |m| m.config("num_attention_heads", json!(0)), &["num_attention_heads"]),
    ("heads that do not divide", |m| m.config("num_attention_heads", json!(7)), &["7"]),
    ("a size in words", |m| m.config("intermediate_size", json!("many")), &["intermediate_size"]),
    ("an unknown activation", |m| m.config("hidden_act", json!("softsign")), &["softsign"]),
    ("missing fields", |m| m.write("config.json", "{\"model_type\": \"bert\"}"), &[WORDS, "30522"]),
    ("no tokenizer", |m| m.remove("vocab.txt"), &["no tokenizer", "vocab.txt"]),
    ("a damaged tokenizer.json", |m| m.write("tokenizer.json", "{\"version\": \"1.0\""), &["tokenizer.json"]),
    ("tokenizer.json is something else", |m| m.write("tokenizer.json", "{\"a\": 1}"), &["tokenizer.json"]),
    (
        "a pickle that calls os.system",
        |m| m.write_bin(pickled(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.")),
        &["pytorch_model.bin", "os.system"],
    ),
    (
        "a pickle that calls eval",
        |m| m.write_bin(pickled(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.")),
        &["pytorch_model.bin", "builtins.eval"],
    ),
    (
        "a pickle that makes an object",
        |m| m.write_bin(pickled(b"(ios\nsystem\n.")),
        &["pytorch_model.bin", "os.system"],
    ),
    (
        "a pickle of absurd lengths",
        |m| m.write_bin(pickled(b"\x80\x02X\xff\xff\xff\xffabc.")),
        &["pytorch_model.bin", "cut off"],
    ),
    (
        "a tensor of absurd size",
        |m| {
            let shape = vec![u32::MAX as usize >> 1; 3];
            m.write_bin(torch_file(&[Tensor { shape, ..Tensor::f32(WORDS, &[1], [0.0]) }]));
        },
        &["pytorch_model.bin", WORDS, "beyond"],
    ),
    (
        "a pickle in a loop",
        |m| {
            // A list that holds itself, by way of the memo.
            let mut pickle = b"\x80\x02]q\x00h\x00a".to_vec();
            pickle.extend(b"h\x00a".repeat(100_000));
            pickle.push(b'.');
            m.write_bin(pickled(&pickle));
        },
        &["pytorch_model.bin", "not a dictionary"],
    ),
    (
        "a pickle nested deeply",
        |m| m.write_bin(pickled(&[&b"\x80\x02)"[..], &b"\x85".repeat(1_000_000), b"."].concat())),
        &["pytorch_model.bin", "not a dictionary"],
    ),
    (
        "a pickle that doubles what it holds",
        |m| {
            // Each tuple holds the last one twice: 2^10000 leaves, were they copied.
            let mut pickle = b"\x80\x02)q\x00".to_vec();
            pickle.extend(b"h\x00h\x00\x86q\x00".repeat(10_000));
            pickle.push(b'.');
            m.write_bin(pickled(&pickle));
        },
        &["pytorch_model.bin", "not a dictionary"],
    ),
    (
        "a pickle that ends early",
        |m| {
            let whole = state_dict(&m.tensors);
            m.write_bin(pickled(&whole[..whole.len() / 2]));
        },
        &["pytorch_model.bin", "cut off"],
    ),
    (
        "a zip cut off",
        |m| {
            let whole = torch_file(&m.tensors);
            m.write_bin(&whole[..whole.len() / 2]);
        },
        &["pytorch_model.bin", "cut off"],
    ),
    ("a zip without its tensors", |m| m.write_bin(pickled(&state_dict(&m.tensors))), &["pytorch_model.bin", "data/"]),
    (
        "a tensor beyond its entry",
        |m| {
            let last = m.tensors.last_mut().expect("a tensor");
            last.bytes.pop();
            m.write_bin(torch_file(&m.tensors));
        },
        &["pytorch_model.bin", "the tensor '", "beyond"],
    ),
    (
        "a zip of something else",
        |m| m.write_bin(zip(&[("a.txt".into(), b"a".to_vec())])),
        &["pytorch_model.bin", "data.pkl"],
    ),
    (
        "a compressed entry",
        |m| {
            let mut file = torch_file(&m.tensors);
            // The first entry of the central list says so.
            let list = file.windows(4).position(|four| four == b"PK\x01\x02").expect("a list");
            file[list + 10] = 8;
            m.write_bin(file);
        },
        &["pytorch_model.bin", "compressed"],
    ),
    ("no torch file at all", |m| m.write_bin(b"<html>404</html>"), &["pytorch_model.bin", "download it again"]),
    (
        "an index without its shard",
        |m| {
            m.remove("model.safetensors");
            m.write("model.safetensors.index.json", json!({"weight_map": {WORDS: "model-1.safetensors"}}).to_string());
        },
        &["model.safetensors.index.json", "model-1.safetensors is missing"],
    ),
    (
        "an index that leaves its directory",
        |m| {
            m.remove("model.safetensors");
            m.write("model.safetensors.index.json", json!({"weight_map": {WORDS: "../model.safetensors"}}).to_string());
        },
        &["model.safetensors.index.json", "../model.safetensors"],
    ),
    (
        "an index that is not one",
        |m| {
            m.remove("model.safetensors");
            m.write("pytorch_model.bin.index.json", "{}");
        },
        &["pytorch_model.bin.index.json", "weight_map"],
    ),
    ("no weights", |m| m.remove("model.safetensors"), &["model.safetensors", "pytorch_model.bin"]),
    ("modules.json is no list", |m| m.write("modules.json", "{}"), &["modules.json"]),
    (
        "a dense layer that does not fit",
        |m| {
            let module = |path: &str, kind: &str| json!({"path": path, "type": kind});
            let modules =
                json!([module("", "x.Transformer"), module("1_Pooling", "x.Pooling"), module("2_Dense", "x.Dense")]);
            m.write("modules.json", modules.to_string());
            for folder in ["1_Pooling", "2_Dense"] {
                fs::create_dir(m.dir.path().join(folder)).expect("create");
            }
            m.write("1_Pooling/config.json", "{}");
            m.write("2_Dense/config.json", "{\"bias\": false}");
            m.write("2_Dense/model.safetensors", safetensors(&[Tensor::f32("linear.weight", &[2, 3], [0.5; 6])]));
        },
        &["2_Dense", "linear.weight", "[2, 3]", "24"],
    ),
];

#[test]
fn each_is_an_error_that_says_what_is_wrong_and_where() {
    assert!(CASES.len() >= 20);
    Model::new().load().expect("the model as it is");
    let mut wrong = Vec::new();
    for (name, damage, words) in CASES {
        let mut model = Model::new();
        damage(&mut model);
        let directory = model.dir.path().to_string_lossy().into_owned();
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.load())) {
            Err(_) => wrong.push(format!("{name}: a panic")),
            Ok(Ok(_)) => wrong.push(format!("{name}: it loads")),
            Ok(Err(error)) => {
                println!("{name}: {error}");
                if !error.contains(&directory) || words.iter().any(|word| !error.contains(word)) {
                    wrong.push(format!("{name}: not {words:?} in: {error}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_binary_ends_with_a_status_and_one_line() {
    for (name, damage, words) in CASES.iter().step_by(4) {
        let mut model = Model::new();
        damage(&mut model);
        let output = support::program()
            .args(["--listen", "127.0.0.1:0", "--model"])
            .arg(model.dir.path())
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{name}: {text}");
        // What a directory lacks is said before anything is read, in other words.
        let first = words.first().expect("a word");
        assert!(text.contains(first) || text.contains("lacks") || text.contains("damaged"), "{name}: {text}");
    }
}

/// Any number in any file of a model: it loads, or says why not; it never panics, and never takes memory for what the file
/// only claims.
#[test]
fn no_number_in_a_model_s_files_is_too_absurd_to_be_read() {
    let absurd =
        ["0", "-1", "1", "1.5", "1e400", "1e30", "18446744073709551615", "9223372036854775807", "4294967296", "null"];
    let numbers = |name: &str| -> Vec<Vec<String>> {
        let text = fs::read_to_string(fixture_model().join(name)).unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let keys = value.as_object().into_iter().flatten().filter(|(_, value)| value.is_number());
        keys.map(|(key, _)| vec![key.clone()]).collect()
    };
    let mut files: Vec<(&str, Vec<Vec<String>>)> =
        ["config.json", "tokenizer_config.json", "sentence_bert_config.json"]
            .map(|name| (name, numbers(name)))
            .to_vec();
    for (name, key) in [
        ("config.json", "hidden_size"),
        ("config.json", "num_attention_heads"),
        ("config.json", "num_hidden_layers"),
        ("config.json", "intermediate_size"),
        ("config.json", "max_position_embeddings"),
        ("config.json", "vocab_size"),
        ("config.json", "type_vocab_size"),
        ("config.json", "pad_token_id"),
        ("config.json", "layer_norm_eps"),
        ("tokenizer_config.json", "model_max_length"),
        ("sentence_bert_config.json", "max_seq_length"),
        ("1_Pooling/config.json", "word_embedding_dimension"),
    ] {
        files.push((name, vec![vec![key.to_owned()]]));
    }
    let mut panicked = Vec::new();
    for (name, key) in
        files.into_iter().flat_map(|(name, keys)| keys.into_iter().map(move |key| (name, key[0].clone())))
    {
        for number in absurd {
            let model = Model::new();
            let path = model.dir.path().join(name);
            let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
            let mut value: serde_json::Map<String, Value> = serde_json::from_str(&text).expect("an object");
            // As text, since not every number there is one to serde.
            value.insert(key.clone(), Value::from("@@"));
            if name.starts_with("1_") {
                let _ = fs::create_dir(model.dir.path().join("1_Pooling"));
            }
            model.write(name, Value::Object(value).to_string().replace("\"@@\"", number));
            let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.load().map(drop)));
            match loaded {
                Err(_) => panicked.push(format!("{name}: {key} = {number}")),
                Ok(Err(error)) => println!("{name}: {key} = {number}: {error}"),
                Ok(Ok(())) => println!("{name}: {key} = {number}: loads"),
            }
        }
    }
    assert!(panicked.is_empty(), "a panic for {panicked:#?}");
}

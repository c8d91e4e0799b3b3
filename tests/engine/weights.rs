//! The same model in every kind of weight file.

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::weight_files::{Tensor, copy_without_weights, read_safetensors, safetensors, torch_file};
use support::{fixture, floats, max_difference, model_dir};
use text2vec_engine::weights::{Weights, weight_files};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{LocalBackend, LocalOptions};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::contract::request::Profile;

type Writer = fn(&[Tensor]) -> Vec<u8>;

/// Writes tensors to one file, or to several with an index.
fn write(dir: &Path, tensors: &[Tensor], shards: usize, writer: Writer) {
    let (stem, extension) = if std::ptr::fn_addr_eq(writer, torch_file as Writer) {
        ("pytorch_model", "bin")
    } else {
        ("model", "safetensors")
    };
    if shards == 1 {
        return fs::write(dir.join(format!("{stem}.{extension}")), writer(tensors)).expect("write");
    }
    let mut map = serde_json::Map::new();
    for (index, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let name = format!("{stem}-{:05}-of-{shards:05}.{extension}", index + 1);
        fs::write(dir.join(&name), writer(part)).expect("write");
        map.extend(part.iter().map(|tensor| (tensor.name.clone(), Value::from(name.clone()))));
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(dir.join(format!("{stem}.{extension}.index.json")), index).expect("write");
}

/// Each kind of file with each type of number, all-MiniLM-L6-v2 against the reference's vectors (of length 1). f32 and
/// f64 lose nothing; f16 keeps 11 bits and bf16 8, whose errors grow on their way through six layers.
#[tokio::test]
async fn every_kind_of_file_gives_the_reference_vectors() {
    let original = read_safetensors(&model_dir().join("model.safetensors"));
    assert!(original.len() > 100, "{} tensors", original.len());
    let (golden, texts) = (fixture("minilm/C-passage.json"), fixture("minilm/texts.json"));
    let prefixed = |tensor: &Tensor| Tensor { name: format!("bert.{}", tensor.name), ..tensor.clone() };
    let old_names = |tensor: &Tensor| {
        let name =
            tensor.name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        Tensor { name, ..tensor.clone() }
    };
    let kinds: [(&str, Writer, usize, &'static str, f64); 8] = [
        ("safetensors in three shards", safetensors, 3, "F32", 2e-6),
        (".bin", torch_file, 1, "F32", 2e-6),
        (".bin in two shards", torch_file, 2, "F32", 2e-6),
        (".bin of f64", torch_file, 1, "F64", 2e-6),
        ("safetensors of f16", safetensors, 1, "F16", 1e-3),
        (".bin of f16", torch_file, 1, "F16", 1e-3),
        ("safetensors of bf16", safetensors, 1, "BF16", 1e-2),
        (".bin of bf16", torch_file, 1, "BF16", 1e-2),
    ];
    for (kind, writer, shards, dtype, tolerance) in kinds {
        let dir = tempfile::tempdir().expect("a directory");
        copy_without_weights(&model_dir(), dir.path());
        let tensors: Vec<Tensor> =
            original.iter().map(|tensor| prefixed(&old_names(&tensor.with_type(dtype)))).collect();
        write(dir.path(), &tensors, shards, writer);
        let options =
            LocalOptions { profile: Some(Profile::SentenceTransformers), ..LocalOptions::new(dir.path().to_owned()) };
        let backend = LocalBackend::load(&options).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let mut worst = 0f64;
        for index in (0..54).step_by(4) {
            let call = Call::passage(texts[index]["text"].as_str().expect("text"));
            let vector = backend.embed(call).await.expect("the call").remove(0).expect("a vector").vector;
            worst = worst.max(max_difference(&vector, &floats(&golden["results"][index]["vector"])));
        }
        println!("{kind}: at most {worst:.2e} from the reference");
        assert!(worst <= tolerance, "{kind}: {worst:e}");
        assert!(worst > 0.0, "{kind}: nothing was compared");
    }
}

/// Files of torch.save itself, in today's format and the one before torch 1.6: types, views, shared numbers.
#[test]
fn files_of_torch_save_hold_what_torch_put_in() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch");
    let expected = fixture("torch/tensors.json");
    let expected = expected.as_object().expect("tensors by name");
    assert_eq!(expected.len(), 10);
    for file in ["new.bin", "old.bin"] {
        let weights = Weights::open(&[dir.join(file)], "f32").expect(file);
        for (name, tensor) in expected {
            let (shape, values) = weights.tensor(name.trim_start_matches("bert.")).expect(name);
            assert_eq!(json!(shape), tensor["shape"], "{file} {name}");
            assert_eq!(values, floats(&tensor["values"]), "{file} {name}");
        }
        for name in ["positions", "flags"] {
            let error = weights.tensor(name).expect_err("not floats");
            assert!(error.message().contains(name) && error.message().contains(file), "{error}");
        }
    }
}

#[test]
fn pickles_of_anything_else_are_refused_by_name() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch");
    for (file, words) in [
        ("call.bin", "posix.system"),
        ("module.bin", "torch.nn.modules.linear.Linear"),
        ("no_tensors.bin", "no tensors"),
    ] {
        let error = Weights::open(&[dir.join(file)], "word").map(|_| ()).expect_err(file);
        assert!(error.message().contains(words) && error.message().contains(file), "{error}");
    }
    assert!(!dir.join("called").exists() && !Path::new("called").exists(), "nothing was run");
}

#[test]
fn safetensors_come_before_torch_s_own_format() {
    let dir = tempfile::tempdir().expect("a directory");
    let names = || -> Vec<PathBuf> {
        let files = weight_files(dir.path()).expect("files");
        files.iter().map(|file| file.file_name().expect("a name").into()).collect()
    };
    let tensors = [Tensor::f32("a", &[1], [1.0]), Tensor::f32("b", &[1], [2.0])];
    write(dir.path(), &tensors, 2, torch_file);
    assert_eq!(names().len(), 2);
    write(dir.path(), &tensors, 1, torch_file);
    assert_eq!(names(), [Path::new("pytorch_model.bin")]);
    write(dir.path(), &tensors, 2, safetensors);
    assert_eq!(names().len(), 2);
    write(dir.path(), &tensors, 1, safetensors);
    assert_eq!(names(), [Path::new("model.safetensors")]);
}

//! Which of a repository's files a model needs.

use super::names::is_plain_name;

/// A file of a repository, as far as the Hub tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepoFile {
    pub(super) name: String,
    pub(super) size: Option<u64>,
    /// Name in the cache's `blobs/`: SHA-256 of large files, git's hash of small ones.
    pub(super) etag: Option<String>,
    /// Known for files in large-file storage: in practice all weights.
    pub(super) sha256: Option<String>,
}

/// Of a repository's files, those that loading the model may need; weights last. At the top and in the numbered folders
/// of sentence-transformers (`1_Pooling`); of the weights one format per folder, safetensors first. Everything else
/// (ONNX, OpenVINO, TensorFlow, Flax, Python code, other folders, training leftovers) stays away.
pub(super) fn needed(files: Vec<RepoFile>) -> Vec<RepoFile> {
    let mut wanted: Vec<RepoFile> = Vec::new();
    let mut weights: Vec<RepoFile> = Vec::new();
    for file in &files {
        let (folder, base) = file.name.rsplit_once('/').unwrap_or(("", &file.name));
        if !(folder.is_empty() || is_module_folder(folder)) || !is_plain_name(base) {
            continue;
        }
        if let Some(format) = weight_format(base) {
            let better = |other: &RepoFile| {
                let (other_folder, other_base) = other.name.rsplit_once('/').unwrap_or(("", &other.name));
                other_folder == folder && weight_format(other_base).is_some_and(|rank| rank < format)
            };
            if !files.iter().any(better) {
                weights.push(file.clone());
            }
        } else if is_side_file(base) {
            wanted.push(file.clone());
        }
    }
    wanted.append(&mut weights);
    wanted
}

/// Formats of weights in order of preference; every file of the chosen one is needed.
pub(super) fn weight_format(base: &str) -> Option<u8> {
    let shard = |start: &str, end: &str| {
        base.strip_prefix(start).and_then(|rest| rest.strip_suffix(end)).is_some_and(|middle| {
            middle.split_once("-of-").is_some_and(|(i, n)| [i, n].iter().all(|s| s.bytes().all(|b| b.is_ascii_digit())))
        })
    };
    match base {
        "model.safetensors" => Some(0),
        "model.safetensors.index.json" => Some(1),
        "pytorch_model.bin" => Some(2),
        "pytorch_model.bin.index.json" => Some(3),
        _ if shard("model-", ".safetensors") => Some(1),
        _ if shard("pytorch_model-", ".bin") => Some(3),
        _ => None,
    }
}

fn is_side_file(base: &str) -> bool {
    let json = base.strip_suffix(".json");
    base.ends_with(".model")
        || matches!(base, "vocab.txt" | "merges.txt")
        || json.is_some_and(|stem| {
            stem.starts_with("config")
                || stem.starts_with("tokenizer")
                // sentence_bert_config and its six older names
                || (stem.starts_with("sentence_") && stem.ends_with("_config"))
                || matches!(stem, "modules" | "special_tokens_map" | "added_tokens" | "vocab")
        })
}

/// `1_Pooling`, `2_Dense`, `0_Transformer`.
fn is_module_folder(folder: &str) -> bool {
    folder.split_once('_').is_some_and(|(number, name)| {
        !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
            && !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Vec<String> {
        let file = |name: &&str| RepoFile { name: name.to_string(), size: None, etag: None, sha256: None };
        needed(names.iter().map(file).collect()).into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn only_needed_files_and_weights_last() {
        let repository = [
            ".gitattributes",
            "1_Pooling/config.json",
            "README.md",
            "config.json",
            "config_sentence_transformers.json",
            "data_config.json",
            "model.safetensors",
            "modeling_custom.py",
            "modules.json",
            "onnx/model.onnx",
            "onnx/config.json",
            "openvino/openvino_model.bin",
            "pytorch_model.bin",
            "rust_model.ot",
            "sentence_bert_config.json",
            "sentence_xlm-roberta_config.json",
            "sentencepiece.bpe.model",
            "spiece.model",
            "special_tokens_map.json",
            "tf_model.h5",
            "flax_model.msgpack",
            "tokenizer.json",
            "tokenizer_config.json",
            "train_script.py",
            "vocab.txt",
            "model.fp16.safetensors",
            "query_encoder/model.safetensors",
            "2_Dense/model.safetensors",
            "2_Dense/pytorch_model.bin",
            "2_Dense/config.json",
            "training_args.bin",
        ];
        assert_eq!(
            chosen(&repository),
            [
                "1_Pooling/config.json",
                "config.json",
                "config_sentence_transformers.json",
                "modules.json",
                "sentence_bert_config.json",
                "sentence_xlm-roberta_config.json",
                "sentencepiece.bpe.model",
                "spiece.model",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "vocab.txt",
                "2_Dense/config.json",
                "model.safetensors",
                "2_Dense/model.safetensors",
            ]
        );
    }

    #[test]
    fn one_format_of_weights_in_each_folder() {
        assert_eq!(chosen(&["pytorch_model.bin", "2_Dense/model.safetensors"]).len(), 2);
        let sharded =
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"];
        assert_eq!(chosen(&[&sharded[..], &["pytorch_model.bin"]].concat()), sharded);
        assert_eq!(chosen(&[&sharded[..], &["model.safetensors"]].concat()), ["model.safetensors"]);
        let old = ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"];
        assert_eq!(chosen(&old), old);
    }

    #[test]
    fn names_that_would_leave_the_folder_are_not_taken() {
        let nasty = [
            "../config.json",
            "/etc/tokenizer.json",
            "1_Pooling/../config.json",
            "1_../config.json",
            "config\\..\\x.json",
            ".config.json",
            "1_Pooling/sub/config.json",
            "config\0.json",
        ];
        assert_eq!(chosen(&nasty), Vec::<String>::new());
    }
}

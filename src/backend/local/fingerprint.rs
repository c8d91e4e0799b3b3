//! What tells one model's vectors from another's.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::plan::Treatment;
use crate::error::{Error, Place, Result};
use crate::hex::hex;
use crate::model::modules::ModelDescription;
use crate::model::tokenizer::tokenizer_files;
use text2vec_engine::family::Masks;
use text2vec_engine::open::Source;
use text2vec_engine::weights::weight_files;

/// 128 bits, in hexadecimal digits, over everything that can change a vector. `root` is the model's directory, in which the
/// transformer's own may be another.
pub(super) fn fingerprint(
    root: &Path,
    description: &ModelDescription,
    source: &Source,
    treatment: &Treatment,
    (precision, masks): (&str, Masks),
) -> Result<String> {
    let mut hash = Sha256::new();
    let switches = (treatment.direct_tokenize, treatment.task_prefixes, treatment.apply_dimensions);
    hash.update(format!("{} {} {switches:?} {precision}\n", treatment.profile, treatment.max_tokens()));
    if masks == Masks::AsTransformers4 {
        hash.update("causal\n");
    }
    let dir = &description.dir;
    let mut files = vec![dir.join("config.json")];
    files.extend(tokenizer_files(dir)?);
    files.extend(["modules.json", "1_Pooling/config.json"].map(|name| root.join(name)));
    files.push(dir.join("sentence_bert_config.json"));
    files.push(root.join("config_sentence_transformers.json"));
    files.extend_from_slice(source.files());
    for dense in description.pipeline.iter().flat_map(|pipeline| &pipeline.dense) {
        files.push(dense.join("config.json"));
        files.extend(weight_files(dense)?);
    }
    let mut buffer = vec![0u8; 1 << 20];
    for path in files.into_iter().filter(|path| path.is_file()) {
        let unreadable = |error| {
            let message = format!("{} cannot be read: {error}", path.display());
            Error::config(message).naming(Place::File(path.clone())).caused_by(error)
        };
        let mut file = std::fs::File::open(&path).map_err(unreadable)?;
        hash.update(format!("{}\n", file.metadata().map_err(unreadable)?.len()));
        loop {
            match file.read(&mut buffer).map_err(unreadable)? {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
    }
    Ok(hex(&hash.finalize()[..16]))
}

//! How near the vectors of a device are to the CPU's, and how near they must be.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use text2vec_engine::device::Card;
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{DEFAULT_WAITING_TOKENS, Inference, LocalBackend, LocalOptions, Precision};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::error::Result;

use super::{fixture, max_difference, repository};

/// Families of the tiny models in tests/fixtures, each with something that the others do not have.
#[rustfmt::skip]
pub(crate) const FAMILIES: &[&str] = &[
    "bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "t5", "t5-gated", "albert", "electra", "nomic-bert", "nomic-bert-moe",
    "gte", "gte-en", "jina-v2", "modernbert", "eurobert", "llama", "mistral", "qwen2", "qwen3", "gemma3", "gemma3-causal",
];

/// What a device computes a family's model in: Gemma's numbers are too large for f16, which is refused.
pub(crate) fn precisions(family: &str) -> impl Iterator<Item = Precision> {
    let is_too_large = family.starts_with("gemma3");
    [Precision::F32, Precision::F16, Precision::Bf16]
        .into_iter()
        .filter(move |&precision| !(is_too_large && precision == Precision::F16))
}

/// What was seen of some texts' vectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nearness {
    /// How many vectors were compared.
    pub vectors: usize,
    /// The largest difference of any component.
    pub difference: f64,
    /// The smallest cosine of a device's vector and the CPU's.
    pub cosine: f64,
}

impl Nearness {
    /// Whether it is what a device owes for this model in this precision: the CPU's f32 but for rounding, or its direction.
    pub(crate) fn suffices(&self, model: &str, precision: Precision) -> bool {
        match precision {
            Precision::F32 => self.difference <= 1e-4 && self.cosine >= 1.0 - 1e-6,
            Precision::F16 => self.cosine >= 0.9999,
            // Three bits less of each number than f16. No more is promised of it, and some tiny models magnify what is rounded:
            // of this one torch's own bf16 has 0.9989 of torch's f32.
            _ if model == "mistral" => self.cosine >= 0.995,
            _ => self.cosine >= 0.999,
        }
    }
}

impl fmt::Display for Nearness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Nearness { vectors, difference, cosine } = self;
        write!(f, "{vectors} vectors, components differ by up to {difference:.1e}, cosine at least {cosine:.7}")
    }
}

/// A model on these cards.
pub(crate) fn load_on(cards: Vec<Card>, options: &LocalOptions) -> Result<LocalBackend> {
    let inference = Inference::start_on(cards, DEFAULT_WAITING_TOKENS)?;
    LocalBackend::load_beside(options, Arc::new(inference))
}

/// The CPU's f32 vectors of these texts beside those of the cards in `precision`: alone, all in one call, and many calls at
/// once. A text that one of them refuses must be refused by the other too.
pub(crate) async fn nearness(model: &Path, cards: &[Card], precision: Precision, texts: &[&str]) -> Nearness {
    let options = LocalOptions { profile: Some(Profile::SentenceTransformers), ..LocalOptions::new(model) };
    let cpu = LocalBackend::load(&options).unwrap_or_else(|error| panic!("{}: {error}", model.display()));
    let device = load_on(cards.to_vec(), &LocalOptions { precision, ..options });
    let device = device.unwrap_or_else(|error| panic!("{} in {precision}: {error}", model.display()));
    let call = |texts: &[&str]| Call::passages(texts.iter().copied());
    let wanted = cpu.embed(call(texts)).await.expect("the CPU's vectors");
    let mut found = vec![device.embed(call(texts)).await.expect("the device's vectors")];
    let alone = futures_util::future::join_all(texts.iter().map(|&text| device.embed(call(&[text])))).await;
    found.push(alone.into_iter().map(|answer| answer.expect("a call").remove(0)).collect());
    let mut first = Vec::new();
    for &text in texts.iter().take(4) {
        first.push(device.embed(call(&[text])).await.expect("a call").remove(0));
    }
    found.push(first);
    let mut nearness = Nearness { vectors: 0, difference: 0.0, cosine: 1.0 };
    for (text, (wanted, found)) in found.iter().flat_map(|found| texts.iter().zip(wanted.iter().zip(found))) {
        let (Ok(wanted), Ok(found)) = (wanted, found) else {
            assert_eq!(
                wanted.is_ok(),
                found.is_ok(),
                "'{text}': {:?}, {:?}",
                wanted.as_ref().err(),
                found.as_ref().err()
            );
            continue;
        };
        nearness.vectors += 1;
        nearness.difference = nearness.difference.max(max_difference(&wanted.vector, &found.vector));
        let cosine = cosine(&wanted.vector, &found.vector);
        assert!(cosine.is_finite(), "'{text}': {cosine}");
        nearness.cosine = nearness.cosine.min(cosine);
    }
    nearness
}

/// Of two vectors that are not zero.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// A family's tiny model.
pub(crate) fn family(name: &str) -> PathBuf {
    repository().join("tests/fixtures/families").join(name)
}

/// The families' texts, and some that are longer.
pub(crate) fn texts() -> Vec<String> {
    let entries = fixture("families/texts.json");
    let entries =
        entries.as_array().expect("texts").iter().map(|entry| entry["text"].as_str().expect("a text").to_owned());
    let longer = [7, 12, 13, 14, 40].map(|times| "A long text about many things, one after another. ".repeat(times));
    entries.chain(longer).collect()
}

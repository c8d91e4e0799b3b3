//! Two backends on the same texts: how far apart are their vectors? What `compare` prints, and its verdict.

use std::fmt;

use crate::backend::meta::theirs::TheirBlock;
use crate::backend::meta::{Meta, Served, Subject};
use crate::backend::{Backend, Embedding};
use crate::contract::call::{Call, EmbedSettings, Text};
use crate::error::Result;

/// Texts sent at once.
const CHUNK: usize = 16;

/// From this cosine on a collection made with one side can be searched and filled by the other.
const INTERCHANGEABLE: f64 = 0.9999;

/// Texts to compare on where the caller gives none: short, long, in several languages and scripts, and none at all.
pub const TEXTS: [&str; 16] = [
    "The London Eye",
    "a",
    "What is the capital of France?",
    "Snow fell on the harbour all night. By morning the boats were white, and nobody went out to fish.",
    "SELECT name, count(*) FROM ships WHERE port = 'Bergen' GROUP BY name;",
    "Dr. Smith paid $3.50 for 2 kg of apples at 5 p.m. He was not amused! Was it too much? Perhaps.",
    "Der Hafenmeister schrieb jedes Schiff auf, das mit der Abendflut einlief.",
    "Le capitaine n'a jamais oublié la tempête de 1987.",
    "港の管理人は、夕方の潮とともに入ってきたすべての船の名前を書き留めた。",
    "Начальник порта записывал каждое судно.",
    "naïve café — “quoted”, ‘single’, and an emoji 🚢",
    "  leading and trailing blanks, and a\ttab and\na line break  ",
    "1234567890 0x7fff 3.14159 -42 1e-9",
    "UPPER CASE AND lower case And Title Case",
    "word ",
    "",
];

/// What a side made of a text: a vector, or the text of an error.
type Outcome = std::result::Result<Vec<f32>, String>;

/// The rules by which a backend makes vectors, as its meta tells; of a pair both, passages first. Empty where it tells
/// none, as the reference container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profiles(Vec<Told>);

/// A profile and what chose it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    profile: String,
    chosen_by: String,
}

/// Reads a backend's meta.
pub fn profiles(meta: &Meta) -> Profiles {
    let told = match (&meta.sidecar, &meta.subject) {
        (None, Subject::Pair { passage, query }) => [told(passage), told(query)],
        _ => [told(meta), None],
    };
    Profiles(told.into_iter().flatten().collect())
}

/// What a sidecar says of itself; of one that forwards, what the one at the end says.
fn told(meta: &Meta) -> Option<Told> {
    match (meta.sidecar.as_ref()?.served.as_ref()?, &meta.subject) {
        (Served::Model(model), _) => {
            Some(Told { profile: model.profile.to_owned(), chosen_by: model.profile_chosen_by.to_owned() })
        }
        (Served::Upstream { .. }, Subject::Upstream(theirs)) => {
            let TheirBlock { profile, profile_chosen_by, .. } = theirs.said.sidecar.as_ref()?.innermost();
            Some(Told { profile: profile.clone()?, chosen_by: profile_chosen_by.clone().unwrap_or_default() })
        }
        (Served::Upstream { .. }, _) => None,
    }
}

impl Profiles {
    /// Whether both sides tell theirs, and they are not the same.
    fn differ(&self, other: &Profiles) -> bool {
        let names = |profiles: &Profiles| profiles.0.iter().map(|told| told.profile.clone()).collect::<Vec<_>>();
        let (mut one, mut other) = (names(self), names(other));
        one.dedup();
        other.dedup();
        !one.is_empty() && !other.is_empty() && one != other
    }
}

impl fmt::Display for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [] => f.write_str("not told"),
            [one] => one.fmt(f),
            [passage, query, ..] => write!(f, "{passage} for passages, {query} for queries"),
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chosen_by.as_str() {
            "" => f.write_str(&self.profile),
            reason => write!(f, "{} (chosen by: {reason})", self.profile),
        }
    }
}

/// How two sides compare.
#[derive(Debug, Default)]
pub struct Comparison {
    /// What each side says of its rules.
    pub profiles: [Profiles; 2],
    /// Texts for which both gave vectors of one length, with their cosine and largest difference.
    pub compared: Vec<Difference>,
    /// Texts both refused.
    pub refused: usize,
    /// Texts that one side refused, or for which the lengths differ: what to tell.
    pub mismatches: Vec<String>,
    /// Lengths of vectors seen, of each side.
    pub dimensions: [Option<usize>; 2],
}

/// Two vectors of one text.
#[derive(Debug)]
pub struct Difference {
    /// The text, shortened.
    pub text: String,
    /// Cosine of the angle between them.
    pub cosine: f64,
    /// Largest difference of two values, divided by the first vector's norm if that is above 1.
    pub largest: f64,
}

/// What a comparison comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The vectors are the same but for rounding.
    Same,
    /// Close enough to share a collection.
    Interchangeable,
    /// Another model, profile or precision, or texts that only one side takes.
    Different,
}

impl Comparison {
    /// Embeds the texts on both sides. An error is a side's as a whole.
    ///
    /// # Errors
    /// What a side says that cannot embed at all.
    pub async fn run(sides: [&dyn Backend; 2], texts: &[Text], settings: &EmbedSettings) -> Result<Comparison> {
        let profiles = sides.map(|side| profiles(&side.meta()));
        let mut comparison = Comparison { profiles, ..Comparison::default() };
        for texts in texts.chunks(CHUNK) {
            let call = Call::new(texts.to_vec(), settings.clone());
            let (first, second) = futures_util::future::join(sides[0].embed(call.clone()), sides[1].embed(call)).await;
            let first = first.map_err(|error| error.context("the first side"))?;
            let second = second.map_err(|error| error.context("the second side"))?;
            for ((text, first), second) in texts.iter().zip(first).zip(second) {
                comparison.add(text, [outcome(first), outcome(second)]);
            }
        }
        Ok(comparison)
    }

    fn add(&mut self, text: &str, outcomes: [Outcome; 2]) {
        for (seen, outcome) in self.dimensions.iter_mut().zip(&outcomes) {
            *seen = outcome.as_ref().ok().map(Vec::len).or(*seen);
        }
        let text = shortened(text);
        match outcomes {
            [Ok(first), Ok(second)] if first.len() == second.len() => {
                let (cosine, largest) = difference(&first, &second);
                self.compared.push(Difference { text, cosine, largest });
            }
            [Ok(first), Ok(second)] => {
                self.mismatches.push(format!("{text}: {} and {} dimensions", first.len(), second.len()));
            }
            [Err(_), Err(_)] => self.refused += 1,
            [Ok(_), Err(error)] => self.mismatches.push(format!("{text}: only the second side refuses it: {error}")),
            [Err(error), Ok(_)] => self.mismatches.push(format!("{text}: only the first side refuses it: {error}")),
        }
    }

    /// The text with the smallest cosine.
    fn worst(&self) -> Option<&Difference> {
        self.compared.iter().min_by(|a, b| a.cosine.total_cmp(&b.cosine))
    }

    /// What it comes to. Nothing to compare is a difference.
    pub fn verdict(&self) -> Verdict {
        let largest = self.compared.iter().map(|difference| difference.largest).fold(0.0, f64::max);
        match self.worst() {
            Some(worst) if self.mismatches.is_empty() => match worst.cosine {
                _ if largest <= 1e-5 => Verdict::Same,
                cosine if cosine >= INTERCHANGEABLE => Verdict::Interchangeable,
                _ => Verdict::Different,
            },
            _ => Verdict::Different,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |length: Option<usize>| length.map_or_else(|| "none".to_owned(), |length| length.to_string());
        let [first, second] = &self.profiles;
        writeln!(f, "profile         {first} and {second}")?;
        let [first, second] = self.dimensions.map(length);
        writeln!(f, "dimensions      {first} and {second}")?;
        writeln!(
            f,
            "texts           {} compared, {} refused by both, {} that do not match",
            self.compared.len(),
            self.refused,
            self.mismatches.len()
        )?;
        if let Some(worst) = self.worst() {
            let mean =
                self.compared.iter().map(|difference| difference.cosine).sum::<f64>() / self.compared.len() as f64;
            let largest = self.compared.iter().map(|difference| difference.largest).fold(0.0, f64::max);
            writeln!(f, "cosine          mean {mean:.8}, min {:.8} ({})", worst.cosine, worst.text)?;
            writeln!(f, "max difference  {largest:.2e}, relative to the vector's length where that is above 1")?;
        }
        for mismatch in &self.mismatches {
            writeln!(f, "mismatch        {mismatch}")?;
        }
        let verdict = match self.verdict() {
            Verdict::Same => "the same vectors: a collection made with one can be used with the other",
            Verdict::Interchangeable => {
                "close vectors, not the same: searches find almost the same, a collection can be shared"
            }
            Verdict::Different => "different: do not mix both in one collection",
        };
        write!(f, "verdict         {verdict}")?;
        match &self.profiles {
            [first, second] if first.differ(second) => write!(
                f,
                "; the first side's profile is {first}, the second's {second}: other rules, so other vectors for many \
                 texts, unless --profile gives both the same"
            ),
            [first, second] if first != second && self.verdict() == Verdict::Different => write!(
                f,
                "; a profile is told by one side only ({first} and {second}): the other may follow another, so try each \
                 --profile"
            ),
            _ => Ok(()),
        }
    }
}

fn outcome(result: Result<Embedding>) -> Outcome {
    result.map(|embedding| embedding.vector.to_vec()).map_err(|error| error.message().to_owned())
}

fn shortened(text: &str) -> String {
    let mut shortened: String = text.chars().take(40).collect();
    if shortened.len() < text.len() {
        shortened.push('…');
    }
    format!("{shortened:?}")
}

/// Cosine, and the largest difference relative to the first vector's norm if that is above 1.
fn difference(first: &[f32], second: &[f32]) -> (f64, f64) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let norms = [first, second].map(|vector| dot(vector, vector).sqrt());
    let largest = first.iter().zip(second).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).fold(0.0, f64::max);
    let cosine = match norms {
        [0.0, 0.0] => 1.0,
        [a, b] if a == 0.0 || b == 0.0 => 0.0,
        [a, b] => dot(first, second) / (a * b),
    };
    (cosine, largest / norms[0].max(1.0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::backend::meta::{ModelReport, UpstreamReport};

    fn comparison(outcomes: Vec<[Outcome; 2]>) -> Comparison {
        let mut comparison = Comparison::default();
        for (number, outcomes) in outcomes.into_iter().enumerate() {
            comparison.add(&format!("text {number}"), outcomes);
        }
        comparison
    }

    #[test]
    fn verdicts_follow_the_vectors() {
        let vector = |x: f32| Ok(vec![3.0, 4.0, x]);
        let refused = || Err("empty".to_owned());
        assert_eq!(comparison(vec![[vector(0.0), vector(1e-5)], [refused(), refused()]]).verdict(), Verdict::Same);
        assert_eq!(comparison(vec![[vector(0.0), vector(0.05)]]).verdict(), Verdict::Interchangeable);
        assert_eq!(comparison(vec![[vector(0.0), vector(0.5)]]).verdict(), Verdict::Different);
        assert_eq!(
            comparison(vec![[vector(0.0), vector(0.0)], [vector(0.0), refused()]]).verdict(),
            Verdict::Different
        );
        assert_eq!(comparison(vec![[vector(0.0), Ok(vec![3.0, 4.0])]]).verdict(), Verdict::Different);
        assert_eq!(comparison(vec![[refused(), refused()]]).verdict(), Verdict::Different, "nothing was compared");
    }

    /// Of a model that is computed here.
    fn computed(profile: &'static str, profile_chosen_by: &'static str) -> Meta {
        let model = ModelReport { profile, profile_chosen_by, ..ModelReport::default() };
        Meta::of(Subject::default(), Served::Model(Box::new(model)))
    }

    /// Of an upstream that says this.
    fn forwarded(theirs: &Value) -> Meta {
        let theirs = theirs.as_object().expect("an object").clone();
        let served = Served::Upstream { upstream: UpstreamReport::default(), fingerprint: String::new() };
        Meta::of(Subject::Upstream(theirs.into()), served)
    }

    #[test]
    fn profiles_are_read_from_every_meta() {
        let own = json!({"profile": "onnx", "profile_chosen_by": "--profile"});
        let whole = profiles(&computed("onnx", "--profile"));
        assert_eq!(whole.to_string(), "onnx (chosen by: --profile)");
        let pair = Meta::pair(computed("a", ""), computed("b", ""));
        assert_eq!(profiles(&pair).to_string(), "a for passages, b for queries");
        for theirs in [
            json!({"sidecar": own, "passage": {}}),
            json!({"sidecar": {"upstream": {"sidecar": own}}}),
            json!({"sidecar": {"upstream": {"sidecar": {"upstream": {"sidecar": own}}}}}),
        ] {
            assert_eq!(profiles(&forwarded(&theirs)), whole, "{theirs}");
        }
        for none in [json!({}), json!({"sidecar": {"upstream": {"url": "x"}}})] {
            assert_eq!(profiles(&forwarded(&none)), Profiles::default(), "{none}");
        }
        assert_eq!(profiles(&Meta::default()), Profiles::default());
    }

    #[test]
    fn the_verdict_names_profiles_that_differ() {
        let of = |profile| profiles(&computed(profile, ""));
        let printed = |first: Profiles, second: Profiles, x: f32| {
            let mut comparison = comparison(vec![[Ok(vec![3.0, 4.0, 0.0]), Ok(vec![3.0, 4.0, x])]]);
            comparison.profiles = [first, second];
            comparison.to_string()
        };
        let verdict = |printed: String| printed.lines().last().expect("a verdict").to_owned();
        let differ = "profile is transformers, the second's onnx";
        assert!(verdict(printed(of("transformers"), of("onnx"), 5.0)).contains(differ));
        assert!(
            verdict(printed(of("transformers"), of("onnx"), 0.0)).contains(differ),
            "equal on these texts by chance"
        );
        assert!(verdict(printed(Profiles::default(), of("onnx"), 5.0)).contains("try each --profile"));
        for (first, second, x) in [(of("onnx"), of("onnx"), 5.0), (Profiles::default(), of("onnx"), 0.0)] {
            let verdict = verdict(printed(first, second, x));
            assert!(!verdict.contains("profile"), "{verdict}");
        }
    }

    #[test]
    fn what_is_printed_names_the_worst_text_and_every_mismatch() {
        let vector = |x: f32| Ok(vec![3.0, 4.0, x]);
        let printed = comparison(vec![
            [vector(0.0), vector(0.0)],
            [vector(0.0), vector(5.0)],
            [vector(0.0), Err("too long".into())],
            [vector(0.0), Ok(vec![1.0])],
        ])
        .to_string();
        for part in
            ["min 0.70710678 (\"text 1\")", "\"text 2\": only the second side refuses it: too long", "3 and 1 dim"]
        {
            assert!(printed.contains(part), "{part}: {printed}");
        }
    }
}

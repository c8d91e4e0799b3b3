//! nearText: concepts and moves → the texts to embed, in order → one query vector.
//!
//! Sources: `usecases/modulecomponents/arguments/nearText/{param,searcher,searcher_movements}.go`,
//! `modules/text2vec-transformers/vectorizer/texts.go`, `usecases/vectorizer/combine.go`,
//! `entities/schema/crossref/crossref.go`.
//!
//! Nothing is embedded here. [`NearText::texts`] lists what is to be embedded; [`NearText::combine`] takes the vectors
//! in that order, one at a time and only as long as no step has failed. A caller may embed everything first, or hand
//! over an iterator that embeds as it is pulled; the answer and the error are the same, because the first error in
//! Weaviate's order is the one that is returned.
//!
//! All arithmetic is float32 in the written order, without fused multiply-add: bit-equal to Weaviate on amd64.

use std::collections::HashMap;

use super::call::Text;
use super::{go_format, uuid};
use crate::error::{Error, Result};

/// The parameters of a nearText search that concern vectors.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NearText {
    /// Texts as they are: no camel case splitting, no lower-casing. Each is embedded, doubles and empty ones included.
    pub concepts: Vec<Text>,
    /// Moves the vector towards something.
    pub move_to: Move,
    /// Moves it away from something, after [`NearText::move_to`].
    pub move_away_from: Move,
    /// Only checked against [`NearText::distance`].
    pub certainty: Option<f64>,
    /// Only checked against [`NearText::certainty`].
    pub distance: Option<f64>,
}

/// One movement. `None` is not the same as an empty list: [`NearText::validate`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Move {
    /// Texts to move to or from; their mean counts once.
    pub concepts: Option<Vec<Text>>,
    /// Objects to move to or from; each counts once.
    pub objects: Option<Vec<MoveObject>>,
    /// How far; used as float32. Zero and less: the move is left out.
    pub force: f64,
}

/// An object named in a move. Weaviate looks its vector up; here the caller brings it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MoveObject {
    /// UUID, not checked; `""` = none.
    pub id: String,
    /// `weaviate://localhost/<Class>/<uuid>`, the class is optional and not used; wins over the id; `""` = none.
    pub beacon: String,
    /// The object's vector. May be left out where the same id already came with one in this move.
    pub vector: Option<Vec<f32>>,
}

impl NearText {
    /// The checks made before anything is embedded, in order. Ranges of certainty and distance are not checked.
    ///
    /// # Errors
    /// `InvalidArgument`, in Weaviate's words.
    pub fn validate(&self) -> Result<()> {
        for (name, movement) in [("moveTo", &self.move_to), ("moveAwayFrom", &self.move_away_from)] {
            if movement.force() > 0.0 && movement.concepts.is_none() && movement.objects.is_none() {
                return Err(Error::invalid(format!(
                    "'nearText.{name}' parameter needs to have defined either 'concepts' or 'objects' fields"
                )));
            }
        }
        if self.certainty.is_some_and(|certainty| certainty != 0.0) && self.distance.is_some() {
            return Err(Error::invalid("nearText cannot provide both distance and certainty"));
        }
        Ok(())
    }

    /// The texts to embed as queries, in order. A move that is left out embeds nothing.
    pub fn texts(&self) -> Vec<&Text> {
        let moves = [&self.move_to, &self.move_away_from].into_iter().filter(|movement| movement.counts());
        self.concepts.iter().chain(moves.flat_map(Move::concepts)).collect()
    }

    /// The query vector, from the vectors of [`NearText::texts`] in their order. No concepts give an empty vector.
    /// It may have infinite values: nothing here guards against overflow.
    ///
    /// # Errors
    /// The first failure in Weaviate's order and words: an embedding's own error (its kind is kept), an object without
    /// vector, a bad beacon, lengths that differ, a moveTo force above 1. `Internal` if there are too few vectors.
    pub fn combine<V: AsRef<[f32]>>(&self, vectors: impl IntoIterator<Item = Result<V>>) -> Result<Vec<f32>> {
        let mut vectors = vectors.into_iter();
        let mut vector = mean_of_texts(&self.concepts, &mut vectors).map_err(|e| e.context("vectorize keywords"))?;
        if self.move_to.counts() {
            let target = self.move_to.target(&mut vectors).map_err(|e| e.context("vectorize move to"))?;
            vector = moved_to(&vector, &target, self.move_to.force())?;
        }
        if self.move_away_from.counts() {
            let target = self.move_away_from.target(&mut vectors).map_err(|e| e.context("vectorize move away from"))?;
            vector = moved_away_from(&vector, &target, self.move_away_from.force())?;
        }
        Ok(vector)
    }
}

impl Move {
    /// The ids of the objects as Weaviate looks them up: a beacon wins over an id, and an entry with neither takes the
    /// id of the entry before it (`""` at the start).
    pub fn object_ids(&self) -> impl Iterator<Item = Result<String>> + '_ {
        let mut id = String::new();
        self.objects.iter().flatten().map(move |object| {
            if !object.id.is_empty() {
                id.clone_from(&object.id);
            }
            if !object.beacon.is_empty() {
                id = parse_beacon(&object.beacon)?;
            }
            Ok(id.clone())
        })
    }

    /// Whether the move is made: some force, and something to move to or from.
    pub fn counts(&self) -> bool {
        let objects = self.objects.as_ref().is_some_and(|objects| !objects.is_empty());
        self.force() > 0.0 && (objects || self.concepts().next().is_some())
    }

    fn force(&self) -> f32 {
        self.force as f32
    }

    fn concepts(&self) -> impl Iterator<Item = &Text> {
        self.concepts.iter().flatten()
    }

    /// The mean of the concepts' mean (one entry, if there are concepts) and of the objects' vectors (one entry each).
    fn target<V: AsRef<[f32]>>(&self, vectors: &mut impl Iterator<Item = Result<V>>) -> Result<Vec<f32>> {
        let mut entries = Vec::new();
        if self.concepts().next().is_some() {
            // "move to" for both movements.
            let mean = mean_of_texts(self.concepts(), vectors).map_err(|e| e.context("vectorize move to"))?;
            entries.push(mean);
        }
        let mut known: HashMap<String, &[f32]> = HashMap::new();
        for (object, id) in self.objects.iter().flatten().zip(self.object_ids()) {
            let id = id?;
            if let Some(vector) = object.vector.as_deref().filter(|vector| !vector.is_empty()) {
                known.insert(id.clone(), vector);
            }
            let vector = known.get(&id).ok_or_else(|| Error::invalid("vector not found"))?;
            entries.push(vector.to_vec());
        }
        Ok(mean(&entries))
    }
}

/// The vector of one search text (hybrid search): as one concept, including what the mean does to it (`-0` becomes
/// `0`).
///
/// # Errors
/// The embedding's error, in Weaviate's words, its kind kept.
pub fn input_vector<V: AsRef<[f32]>>(embedded: Result<V>) -> Result<Vec<f32>> {
    mean_of_texts([""], &mut std::iter::once(embedded))
}

/// The mean per position, over the vectors that are long enough to have it: as long as the longest vector.
pub fn mean<V: AsRef<[f32]>>(vectors: &[V]) -> Vec<f32> {
    let longest = vectors.iter().map(|vector| vector.as_ref().len()).max().unwrap_or(0);
    let mut sums = vec![0.0_f32; longest];
    let mut counts = vec![0_u32; longest];
    for vector in vectors {
        for ((sum, count), value) in sums.iter_mut().zip(&mut counts).zip(vector.as_ref()) {
            *sum += value;
            *count += 1;
        }
    }
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum /= count as f32;
    }
    sums
}

/// Takes one vector per text; the first error ends it.
fn mean_of_texts<T, V: AsRef<[f32]>>(
    texts: impl IntoIterator<Item = T>,
    vectors: &mut impl Iterator<Item = Result<V>>,
) -> Result<Vec<f32>> {
    let next = |_| vectors.next().unwrap_or_else(|| Err(Error::internal("a text of nearText was not embedded")));
    let vectors = texts.into_iter().map(next).collect::<Result<Vec<V>>>();
    vectors.map(|vectors| mean(&vectors)).map_err(|e| e.context("remote client vectorize"))
}

fn moved_to(source: &[f32], target: &[f32], force: f32) -> Result<Vec<f32>> {
    if source.len() != target.len() {
        let (a, b) = (source.len(), target.len());
        return Err(Error::invalid(format!("movement: vector lengths don't match: got {a} and {b}")));
    }
    if force > 1.0 {
        let got = go_format::six_decimals(force);
        return Err(Error::invalid(format!("movement: force must be between 0 and 1: got {got}")));
    }
    let half = force * 0.5;
    Ok(source.iter().zip(target).map(|(s, t)| s * (1.0 - half) + t * half).collect())
}

fn moved_away_from(source: &[f32], target: &[f32], force: f32) -> Result<Vec<f32>> {
    if source.len() != target.len() {
        let (a, b) = (source.len(), target.len());
        return Err(Error::invalid(format!("movement (moveAwayFrom): vector lengths don't match: got {a} and {b}")));
    }
    let half = force * 0.5;
    Ok(source.iter().zip(target).map(|(s, t)| s + half * (s - t)).collect())
}

/// The UUID that a beacon names, as written there. Errors that Go's URL parser would have raised carry our words.
fn parse_beacon(beacon: &str) -> Result<String> {
    let invalid = |what: &str| Error::invalid(format!("invalid cref URI: {what}"));
    let path = url_path(beacon).map_err(|reason| invalid(&format!("parse {beacon:?}: {reason}")))?;
    if path.is_empty() {
        return Err(invalid("%!w(<nil>)"));
    }
    let segments: Vec<&str> = path.split('/').collect();
    let (index, id) = match segments[..] {
        [_, _, id] => (2, id),
        [_, id] => (1, id),
        _ => return Err(invalid(&format!("path must be of format '<class>/<uuid>', but got '{path}'"))),
    };
    if uuid::canonical(id).is_none() {
        return Err(invalid(&format!("{index}nd path segment must be uuid, but got '{id}'")));
    }
    Ok(id.to_owned())
}

/// The decoded path of a URL, as Go's `net/url` finds it; empty for an opaque URL (`weaviate:x`).
fn url_path(url: &str) -> Result<String, &'static str> {
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    percent_decoded(fragment)?;
    if url.chars().any(|c| c.is_ascii_control()) {
        return Err("net/url: invalid control character in URL");
    }
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let (scheme, rest) = match url.split_once(':') {
        Some(("", _)) => return Err("missing protocol scheme"),
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(is_scheme) =>
        {
            (scheme, rest)
        }
        _ => ("", url),
    };
    let rest = rest.split('?').next().unwrap_or_default();
    if !rest.starts_with('/') {
        return match rest.split('/').next() {
            _ if !scheme.is_empty() => Ok(String::new()),
            Some(first) if first.contains(':') => Err("first path segment in URL cannot contain colon"),
            _ => percent_decoded(rest),
        };
    }
    let path = match rest.strip_prefix("//") {
        Some(after) if !scheme.is_empty() || !rest.starts_with("///") => {
            after.find('/').map_or("", |slash| &after[slash..])
        }
        _ => rest,
    };
    percent_decoded(path)
}

fn percent_decoded(text: &str) -> Result<String, &'static str> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or("invalid URL escape");
        decoded.push((digit()? * 16 + digit()?) as u8);
    }
    Ok(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "11111111-1111-1111-1111-111111111111";

    fn object(id: &str, beacon: &str, vector: Option<&[f32]>) -> MoveObject {
        MoveObject { id: id.into(), beacon: beacon.into(), vector: vector.map(<[f32]>::to_vec) }
    }

    #[test]
    fn beacons_are_parsed_as_go_parses_urls() {
        for (beacon, expected) in [
            (format!("weaviate://localhost/Article/{ID}"), Ok(ID)),
            (format!("weaviate://localhost/{ID}?x#y"), Ok(ID)),
            (format!("/{ID}"), Ok(ID)),
            (format!("Article/{ID}"), Ok(ID)),
            (format!("weaviate://localhost/A%2F{ID}"), Ok(ID)),
            ("weaviate://localhost".into(), Err("invalid cref URI: %!w(<nil>)")),
            ("weaviate:opaque".into(), Err("invalid cref URI: %!w(<nil>)")),
            (
                ID.into(),
                Err("invalid cref URI: path must be of format '<class>/<uuid>', but got \
                     '11111111-1111-1111-1111-111111111111'"),
            ),
            (":x".into(), Err("invalid cref URI: parse \":x\": missing protocol scheme")),
            ("/%zz".into(), Err("invalid cref URI: parse \"/%zz\": invalid URL escape")),
            ("/%e".into(), Err("invalid cref URI: parse \"/%e\": invalid URL escape")),
            ("/%ff".into(), Err("invalid cref URI: 1nd path segment must be uuid, but got '\u{fffd}'")),
        ] {
            let parsed = parse_beacon(&beacon);
            assert_eq!(parsed.as_deref().map_err(Error::message), expected, "{beacon}");
        }
    }

    #[test]
    fn vectors_are_pulled_one_by_one_and_only_while_nothing_failed() {
        let near_text = NearText {
            concepts: vec!["a".into()],
            move_to: Move { objects: Some(vec![object("", "/x", None)]), force: 0.5, ..Move::default() },
            move_away_from: Move { concepts: Some(vec!["b".into()]), force: 0.5, ..Move::default() },
            ..NearText::default()
        };
        assert_eq!(near_text.texts(), ["a", "b"]);
        let mut pulled = 0;
        let vectors = near_text.texts().into_iter().map(|_| {
            pulled += 1;
            Ok([1.0])
        });
        let error = near_text.combine(vectors).unwrap_err();
        assert!(error.message().starts_with("vectorize move to: invalid cref URI: "), "{error}");
        assert_eq!(pulled, 1);
        assert!(near_text.combine(Vec::<Result<[f32; 1]>>::new()).is_err(), "too few vectors");
    }

    #[test]
    fn the_kind_of_an_embedding_error_is_kept() {
        let near_text = NearText { concepts: vec!["a".into()], ..NearText::default() };
        let overloaded = Error::new(crate::error::ErrorKind::Overloaded, "busy");
        let error = near_text.combine([Err::<Vec<f32>, _>(overloaded.clone())]).unwrap_err();
        assert_eq!(error.kind(), overloaded.kind());
        assert_eq!(error.message(), "vectorize keywords: remote client vectorize: busy");
        assert_eq!(
            input_vector(Err::<Vec<f32>, _>(overloaded)).unwrap_err().message(),
            "remote client vectorize: busy"
        );
    }

    #[test]
    fn an_id_that_came_with_a_vector_keeps_it() {
        let objects = vec![object(ID, "", Some(&[2.0])), object("", "", None), object("b", "", Some(&[8.0]))];
        let movement = Move { objects: Some(objects), force: 1.0, ..Move::default() };
        let target = movement.target(&mut std::iter::empty::<Result<Vec<f32>>>()).unwrap();
        assert_eq!(target, [4.0]);
        let empty = Move { objects: Some(vec![object(ID, "", Some(&[]))]), force: 1.0, ..Move::default() };
        assert!(empty.target(&mut std::iter::empty::<Result<Vec<f32>>>()).is_err());
    }

    #[test]
    fn a_force_that_is_no_number_moves_nothing() {
        let movement = Move { concepts: Some(vec!["a".into()]), force: f64::NAN, ..Move::default() };
        assert!(!movement.counts());
        assert!(NearText { move_to: movement, ..NearText::default() }.validate().is_ok());
        assert_eq!(input_vector(Ok([-0.0_f32])).unwrap()[0].to_bits(), 0);
    }
}

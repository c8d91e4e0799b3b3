//! Answers with vectors, written as JSON while they are sent: what an answer holds in memory is its vectors, four bytes a
//! number and shared with the cache, and one piece of text, not the ten bytes or more that each number takes as text.
//!
//! An answer is a sequence of [`Part`]s, made one after the other. What fits into one piece is sent with its length, as ever.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::body::{Body as HttpBody, Frame};
use serde::Serialize;

use crate::contract::call::Text;

/// Bytes of text that are written before they are sent. A number, or a stretch of a text, may go beyond.
const PIECE: usize = 32 * 1024;

/// Bytes of a text that are quoted at once.
const STRETCH: usize = 4 * 1024;

/// Numbers that become base64 at once: three bytes make four characters, so all but the last stretch must be whole.
const NUMBERS: usize = 768;

/// A part of an answer.
pub(super) enum Part {
    /// JSON as it is.
    Json(Cow<'static, str>),
    /// A text, to be quoted.
    Text(Text),
    /// A list of numbers, each in the fewest digits that read back to the same float32.
    Vector(Arc<[f32]>),
    /// The same as a quoted text: float32, little-endian, in base64.
    Base64(Arc<[f32]>),
}

/// JSON that is written here.
pub(super) fn fixed(text: &'static str) -> Part {
    Part::Json(text.into())
}

/// Any value as JSON, where it is small.
pub(super) fn value(value: &impl Serialize) -> Part {
    // Of texts, numbers and lists of them: nothing of it can fail.
    Part::Json(serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned()).into())
}

/// The entries of a list, with its brackets and commas.
pub(super) fn list<I, P>(entries: I) -> impl Iterator<Item = Part>
where
    I: IntoIterator<Item = P>,
    P: IntoIterator<Item = Part>,
{
    let entry = |(index, parts): (usize, P)| (index > 0).then(|| fixed(",")).into_iter().chain(parts);
    let entries = entries.into_iter().enumerate().flat_map(entry);
    std::iter::once(fixed("[")).chain(entries).chain([fixed("]")])
}

/// An answer of these parts: 200, JSON.
pub(super) fn written<I>(parts: I) -> Response
where
    I: IntoIterator<Item = Part>,
    I::IntoIter: Send + 'static,
{
    let mut writer = Writer { parts: parts.into_iter().fuse(), current: None };
    let first = writer.piece();
    let body = match writer.is_done() {
        true => Body::from(first),
        false => Body::new(Written { first: Some(first), writer }),
    };
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

struct Writer<I: Iterator<Item = Part>> {
    parts: std::iter::Fuse<I>,
    /// The part that is being written, and how far it is: bytes of a text, numbers of a vector.
    current: Option<(Part, usize)>,
}

impl<I: Iterator<Item = Part>> Writer<I> {
    /// The next piece; empty at the end.
    fn piece(&mut self) -> Bytes {
        // Most answers are one vector.
        let mut piece = Vec::with_capacity(8 * 1024);
        while piece.len() < PIECE {
            let Some((part, written)) = self.current.take().or_else(|| self.parts.next().map(|part| (part, 0))) else {
                break;
            };
            if let Some(written) = write(&part, written, &mut piece) {
                self.current = Some((part, written));
            }
        }
        piece.into()
    }

    /// Whether nothing is left. Looks at the next part.
    fn is_done(&mut self) -> bool {
        if self.current.is_none() {
            self.current = self.parts.next().map(|part| (part, 0));
        }
        self.current.is_none()
    }
}

/// Writes on from where a part is; how far it is then, if there is more of it.
fn write(part: &Part, written: usize, piece: &mut Vec<u8>) -> Option<usize> {
    match part {
        Part::Json(json) => {
            piece.extend_from_slice(json.as_bytes());
            None
        }
        Part::Text(text) => {
            let end = text.floor_char_boundary(written.saturating_add(STRETCH));
            quote(&text[written..end], piece, written == 0, end == text.len());
            (end < text.len()).then_some(end)
        }
        Part::Vector(numbers) => {
            let mut at = written;
            if at == 0 {
                piece.push(b'[');
            }
            while let Some(number) = numbers.get(at) {
                // Not before a number is written: a vector that is still at 0 would begin again, with a second bracket.
                if at > written && piece.len() >= PIECE {
                    return Some(at);
                }
                if at > 0 {
                    piece.push(b',');
                }
                append(number, piece);
                at += 1;
            }
            piece.push(b']');
            None
        }
        Part::Base64(numbers) => {
            let end = numbers.len().min(written + NUMBERS);
            let bytes: Vec<u8> = numbers[written..end].iter().flat_map(|number| number.to_le_bytes()).collect();
            let encoded = BASE64_STANDARD.encode(bytes);
            quote(&encoded, piece, written == 0, end == numbers.len());
            (end < numbers.len()).then_some(end)
        }
    }
}

/// A stretch of a quoted text, with the quotes that belong to its ends.
fn quote(stretch: &str, piece: &mut Vec<u8>, is_first: bool, is_last: bool) {
    let begin = piece.len();
    append(stretch, piece);
    if !is_last {
        piece.pop();
    }
    if !is_first {
        piece.remove(begin);
    }
}

fn append(value: &(impl Serialize + ?Sized), piece: &mut Vec<u8>) {
    // Writing a number or a text into memory cannot fail.
    let _ = serde_json::to_writer(piece, value);
}

/// The body of an answer that is longer than a piece.
struct Written<I: Iterator<Item = Part>> {
    first: Option<Bytes>,
    writer: Writer<I>,
}

impl<I: Iterator<Item = Part>> Unpin for Written<I> {}

impl<I: Iterator<Item = Part>> HttpBody for Written<I> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = self.first.take().unwrap_or_else(|| self.writer.piece());
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;

    /// The whole body, and the sizes of its pieces.
    async fn read(response: Response) -> (String, Vec<usize>) {
        let mut body = response.into_body();
        let (mut bytes, mut sizes) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let data = frame.expect("no error").into_data().expect("data");
            sizes.push(data.len());
            bytes.extend_from_slice(&data);
        }
        (String::from_utf8(bytes).expect("text"), sizes)
    }

    fn vector(length: usize) -> Arc<[f32]> {
        (0..length).map(|i| (i as f32 - 3.0) / 7.0).collect()
    }

    #[tokio::test]
    async fn what_is_written_in_pieces_is_what_serde_writes() {
        let texts = ["", "plain", "\"quoted\"\n\u{1}", &"é\"".repeat(STRETCH), &"x".repeat(3 * STRETCH)];
        for length in [0, 1, NUMBERS - 1, NUMBERS, NUMBERS + 1, 5 * NUMBERS, 20_000] {
            for text in texts {
                let numbers = vector(length);
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                let entry = |numbers: &Arc<[f32]>, text: &str| {
                    [Part::Vector(numbers.clone()), fixed(","), Part::Text(text.into()), fixed(",")]
                        .into_iter()
                        .chain([Part::Base64(numbers.clone())])
                };
                let parts: Vec<_> = list([entry(&numbers, text), entry(&numbers, text)]).collect();
                let (written, sizes) = read(written(parts)).await;
                let one = format!(
                    "{},{},{}",
                    serde_json::to_string(&numbers[..]).expect("JSON"),
                    serde_json::to_string(text).expect("JSON"),
                    json!(BASE64_STANDARD.encode(&bytes))
                );
                assert_eq!(written, format!("[{one},{one}]"), "{length}");
                // A quoted stretch is at most six bytes for one.
                assert!(sizes.iter().all(|&size| size < PIECE + 6 * STRETCH + 2), "{sizes:?}");
            }
        }
    }

    #[tokio::test]
    async fn every_part_may_begin_and_end_where_a_piece_does() {
        let numbers: Arc<[f32]> = [1.5, -2.25].into();
        for before in PIECE - 40..PIECE + 4 {
            let start = format!("\"{}\"", "x".repeat(before - 3));
            let parts = [
                Part::Json(start.clone().into()),
                fixed(","),
                Part::Vector(numbers.clone()),
                fixed(","),
                Part::Text("é\"".into()),
                fixed(","),
                Part::Base64(numbers.clone()),
            ];
            let (text, _) = read(written(list([parts]))).await;
            let base64 = BASE64_STANDARD.encode([1.5f32.to_le_bytes(), (-2.25f32).to_le_bytes()].concat());
            assert_eq!(text, format!(r#"[{start},[1.5,-2.25],"é\"","{base64}"]"#), "{before}");
        }
    }

    #[tokio::test]
    async fn a_short_answer_has_its_length_and_a_long_one_comes_in_pieces() {
        let short = written([Part::Vector(vector(384))]);
        assert!(HttpBody::size_hint(short.body()).exact().is_some());
        let long = written(list((0..100).map(|_| [Part::Vector(vector(384))])));
        assert_eq!(HttpBody::size_hint(long.body()).exact(), None);
        let (text, sizes) = read(long).await;
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON").as_array().map(Vec::len), Some(100));
        assert!(sizes.len() > 5, "{sizes:?}");
        assert!(sizes.iter().all(|&size| size < PIECE + 64), "{sizes:?}");
    }

    #[tokio::test]
    async fn odd_numbers_are_null_as_ever() {
        let numbers: Arc<[f32]> = [f32::NAN, f32::INFINITY, -0.0, 1e-40].into();
        let (text, _) = read(written([Part::Vector(numbers.clone())])).await;
        assert_eq!(text, serde_json::to_string(&numbers[..]).expect("JSON"));
    }

    #[tokio::test]
    async fn parts_are_made_as_they_are_sent() {
        let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = made.clone();
        let parts = list((0..1000).map(move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            [Part::Vector(vector(384))]
        }));
        let mut body = written(parts).into_body();
        assert!(made.load(std::sync::atomic::Ordering::Relaxed) < 20);
        body.frame().await.expect("a piece").expect("no error");
        assert!(made.load(std::sync::atomic::Ordering::Relaxed) < 20);
    }
}

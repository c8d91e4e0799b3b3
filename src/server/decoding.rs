//! Request bodies that come compressed: gzip is undone as it arrives, in small steps, so that the limits on bodies hold for
//! what comes out. Other codings are refused.

use std::io::Write;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::HeaderValue;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use axum::middleware::Next;
use axum::response::Response;
use flate2::write::MultiGzDecoder;
use futures_util::{StreamExt, stream};

use super::http::errors::error_response_at;
use super::observe::is_grpc;
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are undone at once: no more than a thousand times as many come out of them.
const STEP: usize = 1024;

/// Undoes the coding of a request's body, if it has one. gRPC compresses its messages by themselves.
pub(super) async fn decode(mut request: Request, next: Next) -> Response {
    let coding = match is_grpc(request.headers()) {
        true => Ok(Coding::Plain),
        false => coding(request.headers()),
    };
    match coding {
        Ok(Coding::Plain) => next.run(request).await,
        Ok(Coding::Gzip) => {
            let headers = request.headers_mut();
            headers.remove(CONTENT_ENCODING);
            // That of the bytes as they came.
            headers.remove(CONTENT_LENGTH);
            next.run(request.map(unzipped)).await
        }
        Err(error) => {
            let mut response = error_response_at(request.uri().path(), &error);
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
    }
}

enum Coding {
    Plain,
    Gzip,
}

/// By which coding a body came.
///
/// # Errors
/// [`ErrorKind::UnsupportedCoding`] for any but gzip alone.
fn coding(headers: &HeaderMap) -> Result<Coding> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let named: Vec<String> =
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase()).collect();
    let named = named.join(",");
    let codings: Vec<&str> =
        named.split(',').map(str::trim).filter(|coding| !matches!(*coding, "" | "identity")).collect();
    match &codings[..] {
        [] => Ok(Coding::Plain),
        ["gzip" | "x-gzip"] => Ok(Coding::Gzip),
        _ => {
            let named: String = codings.join(", ").chars().take(40).collect();
            let message =
                format!("the body's Content-Encoding is '{named}', which is not undone here: send it plain or as gzip");
            Err(Error::new(ErrorKind::UnsupportedCoding, message))
        }
    }
}

/// What of a compressed body is still to be done.
struct Zipped {
    chunks: BodyDataStream,
    arrived: Bytes,
    decoder: MultiGzDecoder<Vec<u8>>,
}

impl Zipped {
    /// The next bytes that come out; `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        let broken =
            |error: std::io::Error| axum::Error::new(Error::invalid(format!("the gzip body is broken: {error}")));
        loop {
            let ended = match self.arrived.is_empty() {
                false => false,
                true => match self.chunks.next().await {
                    Some(Ok(chunk)) => {
                        self.arrived = chunk;
                        false
                    }
                    Some(Err(error)) => return Some(Err(error)),
                    None => true,
                },
            };
            let step = self.arrived.split_to(STEP.min(self.arrived.len()));
            let done = if ended { self.decoder.try_finish() } else { self.decoder.write_all(&step) };
            if let Err(error) = done {
                return Some(Err(broken(error)));
            }
            let out = std::mem::take(self.decoder.get_mut());
            if !out.is_empty() {
                return Some(Ok(out.into()));
            }
            if ended {
                return None;
            }
            // So that a long body is not undone at the cost of other requests.
            tokio::task::consume_budget().await;
        }
    }
}

fn unzipped(body: Body) -> Body {
    let zipped =
        Zipped { chunks: body.into_data_stream(), arrived: Bytes::new(), decoder: MultiGzDecoder::new(Vec::new()) };
    Body::from_stream(stream::unfold(Some(zipped), async |zipped| {
        let mut zipped = zipped?;
        let out = zipped.next().await?;
        let rest = out.is_ok().then_some(zipped);
        Some((out, rest))
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("write");
        encoder.finish().expect("gzip")
    }

    async fn undone(bytes: &[u8], size: usize) -> Result<Vec<u8>, String> {
        let pieces: Vec<_> =
            bytes.chunks(size).map(|piece| Ok::<_, axum::Error>(Bytes::copy_from_slice(piece))).collect();
        let mut body = unzipped(Body::from_stream(stream::iter(pieces))).into_data_stream();
        let mut all = Vec::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| error.to_string())?;
            assert!(piece.len() <= 2 * 1024 * 1024, "{} bytes at once", piece.len());
            all.extend(piece);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn bodies_come_out_whole_in_small_pieces_however_they_are_cut() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|i| (i.wrapping_mul(i) % 251).to_le_bytes()).collect();
        let bomb = zipped(&vec![0; 10_000_000]);
        for size in [1, 7, 1024, usize::MAX] {
            assert_eq!(undone(&zipped(&text), size).await.as_ref(), Ok(&text), "{size}");
            assert_eq!(undone(&bomb, size).await.map(|all| all.len()), Ok(10_000_000), "{size}");
            let twice = [zipped(b"one, "), zipped(b"two")].concat();
            assert_eq!(undone(&twice, size).await.as_deref(), Ok(&b"one, two"[..]), "{size}");
        }
    }

    #[tokio::test]
    async fn broken_bodies_are_errors() {
        let whole = zipped(b"a body that is cut off somewhere, or is none at all");
        for broken in
            [&b""[..], b"{\"text\":\"x\"}", &whole[..5], &whole[..whole.len() - 12], &whole[..whole.len() - 1]]
        {
            let error = undone(broken, 3).await.expect_err("broken");
            assert!(error.contains("gzip body is broken"), "{error}");
        }
        let mut changed = whole.clone();
        *changed.last_mut().expect("bytes") ^= 1;
        assert!(undone(&changed, 3).await.is_err());
    }
}

//! HTTP/2 frames by hand, as no well-behaved client would send them (RFC 9113).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A connection that has shown the preface. What comes back is thrown away.
pub(crate) struct Raw {
    writer: OwnedWriteHalf,
}

impl Raw {
    pub(crate) async fn open(server: SocketAddr) -> std::io::Result<Raw> {
        let (mut reader, mut writer) = TcpStream::connect(server).await?.into_split();
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
        writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        let mut raw = Raw { writer };
        raw.send(&frame(SETTINGS, 0, 0, &[])).await?;
        Ok(raw)
    }

    pub(crate) async fn send(&mut self, frames: &[u8]) -> std::io::Result<()> {
        self.writer.write_all(frames).await
    }
}

/// A frame of at most 16,384 bytes of payload.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field of a header block, literal and not to be indexed (RFC 7541, 6.2.2). Neither is longer than 126 bytes.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        field.push(u8::try_from(text.len()).expect("a short text"));
        field.extend(text.as_bytes());
    }
    field
}

/// The header block of a request.
pub(crate) fn request(method: &str, path: &str) -> Vec<u8> {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "sidecar")]
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

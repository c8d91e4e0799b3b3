//! The messages of a gRPC stream, found in its bytes.

/// A gRPC message begins with a flag and its length, big-endian.
pub(super) const GRPC_PREFIX: usize = 5;

/// The message of a stream that is being read.
#[derive(Default)]
pub(super) struct Message {
    /// What has come of its prefix.
    prefix: Vec<u8>,
    /// Bytes that have come after the prefix, and are still to come.
    body: usize,
    missing: usize,
}

impl Message {
    /// Bytes that have come of a message that is not whole.
    pub(super) fn arrived(&self) -> usize {
        self.prefix.len() + self.body
    }

    /// Whether nothing of it is missing.
    pub(super) fn is_whole(&self) -> bool {
        self.missing == 0 && self.prefix.is_empty()
    }

    /// Reads on: whether a message began, and the length of the largest that did.
    pub(super) fn read(&mut self, mut chunk: &[u8]) -> (bool, Option<usize>) {
        let (mut began, mut largest) = (false, None);
        while !chunk.is_empty() {
            let body = self.missing.min(chunk.len());
            self.missing -= body;
            self.body += body;
            chunk = &chunk[body..];
            if self.missing == 0 {
                self.body = 0;
            }
            let prefix = (GRPC_PREFIX - self.prefix.len()).min(chunk.len());
            began |= prefix > 0;
            self.prefix.extend_from_slice(&chunk[..prefix]);
            chunk = &chunk[prefix..];
            if let [_, length @ ..] = &self.prefix[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.missing = u32::from_be_bytes(length) as usize;
                self.prefix.clear();
                largest = largest.max(Some(self.missing));
            }
        }
        (began, largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_their_bytes_are_cut() {
        let mut bytes = Vec::new();
        for length in [3, 0, 300, 1] {
            bytes.push(0);
            bytes.extend(u32::to_be_bytes(length));
            bytes.extend(vec![7; length as usize]);
        }
        for size in 1..bytes.len() {
            let mut message = Message::default();
            let mut found = Vec::new();
            for chunk in bytes.chunks(size) {
                found.extend(message.read(chunk).1);
                assert!(message.arrived() <= 300 + GRPC_PREFIX);
            }
            assert_eq!(found.iter().max(), Some(&300), "{size}");
            assert!(message.is_whole() && message.arrived() == 0, "{size}");
            if size <= 5 {
                assert_eq!(found, [3, 0, 300, 1], "{size}");
            }
        }
    }
}

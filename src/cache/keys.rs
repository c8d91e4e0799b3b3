//! What a vector is found by: 128 bits over everything that can change it.

use std::hash::{BuildHasher, Hasher, RandomState};

use sha2::{Digest, Sha256};

use crate::contract::call::{Call, EmbedSettings, Purpose};
use crate::contract::request::Task;

/// After so many bytes hashed other tasks get a turn.
const BYTES_PER_TURN: usize = 256 * 1024;

/// What a vector is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Which share of the room it uses; also in the digest, by its name.
    pub(super) task: Task,
    digest: [u8; 16],
}

/// Makes keys for one model.
pub(super) struct KeyMaker {
    /// Has taken in the secret.
    secret: Sha256,
    /// Has taken in the secret and the fingerprint.
    start: Sha256,
}

impl KeyMaker {
    /// Keys under a new secret.
    pub(super) fn new(fingerprint: &str) -> KeyMaker {
        // The standard library's hash maps are seeded with 128 bits from the operating system.
        let seeded = RandomState::new();
        let mut secret = Sha256::new();
        for word in 0..4u64 {
            let mut hasher = seeded.build_hasher();
            hasher.write_u64(word);
            secret.update(hasher.finish().to_le_bytes());
        }
        KeyMaker { start: secret.clone(), secret }.for_model(fingerprint)
    }

    /// Keys under the same secret, for another model.
    pub(super) fn for_model(&self, fingerprint: &str) -> KeyMaker {
        let mut start = self.secret.clone();
        start.update((fingerprint.len() as u64).to_le_bytes());
        start.update(fingerprint);
        KeyMaker { secret: self.secret.clone(), start }
    }

    /// Keys of a call's texts, letting other tasks run between long ones.
    pub(super) async fn keys(&self, call: &Call) -> Vec<Key> {
        let start = self.of_purpose(&call.purpose);
        let mut keys = Vec::with_capacity(call.texts.len());
        let mut bytes = 0;
        for text in &call.texts {
            keys.push(start.key(text));
            bytes += text.len();
            if bytes >= BYTES_PER_TURN {
                bytes = 0;
                tokio::task::yield_now().await;
            }
        }
        keys
    }

    fn of_purpose(&self, purpose: &Purpose) -> Start {
        match purpose {
            Purpose::Embed(settings) => self.of_settings(settings),
            Purpose::Score { query } => {
                let mut hash = self.start.clone();
                // No settings begin so: theirs is 0 or 1.
                hash.update([2]);
                hash.update((query.len() as u64).to_le_bytes());
                hash.update(&**query);
                // Many small entries: they must not drive out the vectors of queries.
                Start { task: Task::Passage, hash }
            }
        }
    }

    fn of_settings(&self, settings: &EmbedSettings) -> Start {
        // All fields by name: a new one must be thought of here.
        let EmbedSettings { task_name, pooling, dimensions, prompt } = settings;
        let mut hash = self.start.clone();
        // Lengths keep one field's end from being read as another's start.
        for field in [task_name.as_deref(), pooling.as_deref(), prompt.as_deref()] {
            hash.update([u8::from(field.is_some())]);
            hash.update((field.map_or(0, str::len) as u64).to_le_bytes());
            hash.update(field.unwrap_or_default());
        }
        hash.update([u8::from(dimensions.is_some())]);
        hash.update(dimensions.unwrap_or_default().to_le_bytes());
        Start { task: settings.task(), hash }
    }
}

/// What the keys of one call's texts have in common.
struct Start {
    task: Task,
    /// Has taken in all but the text.
    hash: Sha256,
}

impl Start {
    fn key(&self, text: &str) -> Key {
        let mut hash = self.hash.clone();
        hash.update(text);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        Key { task: self.task, digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(maker: &KeyMaker, (settings, text): &(EmbedSettings, &str)) -> Key {
        maker.of_settings(settings).key(text)
    }

    #[test]
    fn everything_that_can_change_the_vector_is_in_the_key() {
        let maker = KeyMaker::new("model");
        let plain = EmbedSettings::default;
        let asked = [
            (plain(), "a"),
            (plain(), "b"),
            (plain(), ""),
            (EmbedSettings::query(), "a"),
            (EmbedSettings { task_name: Some("passage".into()), ..plain() }, "a"),
            (EmbedSettings { task_name: Some("".into()), ..plain() }, "a"),
            (EmbedSettings { pooling: Some("cls".into()), ..plain() }, "a"),
            (EmbedSettings { pooling: Some("".into()), ..plain() }, "a"),
            (EmbedSettings { prompt: Some("cls".into()), ..plain() }, "a"),
            (EmbedSettings { prompt: Some("".into()), ..plain() }, "a"),
            (EmbedSettings { dimensions: Some(0), ..plain() }, "a"),
            (EmbedSettings { dimensions: Some(-1), ..plain() }, "a"),
            (EmbedSettings { dimensions: Some(1), ..plain() }, "a"),
            // Fields that run into each other when lengths are left out.
            (EmbedSettings { pooling: Some("x".into()), prompt: Some("\u{1}y".into()), ..plain() }, "a"),
            (EmbedSettings { pooling: Some("x\u{1}".into()), prompt: Some("y".into()), ..plain() }, "a"),
            (EmbedSettings { prompt: Some("z".into()), ..plain() }, "\0a"),
        ];
        let keys: Vec<Key> = asked.iter().map(|asked| key(&maker, asked)).collect();
        for (i, found) in keys.iter().enumerate() {
            assert_eq!(*found, key(&maker, &asked[i]), "the same text and settings have the same key");
            assert!(!keys[..i].contains(found), "{:?} has the key of another", asked[i]);
            let other = maker.for_model("other model");
            assert_ne!(*found, key(&other, &asked[i]));
        }
    }

    #[test]
    fn a_pair_has_a_key_of_its_own() {
        let maker = KeyMaker::new("model");
        let pair = |query: &str, text| maker.of_purpose(&Purpose::Score { query: query.into() }).key(text);
        let keys = [pair("a", "b"), pair("b", "a"), pair("", "ab"), pair("ab", ""), pair("a", "")];
        for (i, found) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(found), "{i}");
            assert_ne!(*found, key(&maker, &(EmbedSettings::default(), "b")));
        }
        assert_eq!(pair("a", "b"), pair("a", "b"));
    }

    #[test]
    fn keys_are_secret_to_the_process_and_differ_by_model() {
        let passage = (EmbedSettings::default(), "a");
        assert_ne!(key(&KeyMaker::new("model"), &passage), key(&KeyMaker::new("model"), &passage));
        assert_eq!(key(&KeyMaker::new("model"), &passage).task, Task::Passage);
        assert_eq!(key(&KeyMaker::new("model"), &(EmbedSettings::query(), "a")).task, Task::Query);
    }
}

//! Classes that were parsed before, by the hash of their JSON: a loader sends the same one with each of its batches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::contract::class::Class;
use crate::error::Result;

/// Classes remembered at once. A database has few; when there are more, all are forgotten and parsed again.
const REMEMBERED: usize = 256;

/// See the module.
#[derive(Default)]
pub struct Classes {
    parsed: Mutex<HashMap<[u8; 32], Arc<Class>>>,
}

impl Classes {
    /// The class of this JSON text.
    pub fn get(&self, json: &str) -> Result<Arc<Class>> {
        let hash: [u8; 32] = Sha256::digest(json).into();
        // A panic while the lock was held leaves a map that is still right.
        let locked = || self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(class) = locked().get(&hash) {
            return Ok(class.clone());
        }
        let class = Arc::new(Class::from_json(json)?);
        let mut parsed = locked();
        if parsed.len() >= REMEMBERED {
            parsed.clear();
        }
        parsed.insert(hash, class.clone());
        Ok(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_parsed_once_and_never_confused() {
        let classes = Classes::default();
        let first = classes.get(r#"{"class":"A"}"#).expect("a class");
        assert!(Arc::ptr_eq(&first, &classes.get(r#"{"class":"A"}"#).expect("a class")));
        assert_eq!(classes.get(r#"{"class":"B"}"#).expect("a class").name, "B");
        assert!(classes.get("[]").is_err());
        for i in 0..2 * REMEMBERED {
            assert_eq!(classes.get(&format!(r#"{{"class":"C{i}"}}"#)).expect("a class").name, format!("C{i}"));
        }
        assert!(classes.parsed.lock().expect("lock").len() <= REMEMBERED);
    }
}

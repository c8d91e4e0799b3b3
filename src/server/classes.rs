//! Classes that were parsed before, by the hash of their JSON: a loader sends the same one with each of its batches.

use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::contract::class::Class;
use crate::contract::module::Module;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// Bytes of the classes remembered, and what each costs beside itself. A database has few, of some kilobytes each.
const REMEMBERED_BYTES: u64 = 16 * 1024 * 1024;
const ENTRY_OVERHEAD: usize = 512;

/// See the module.
pub(super) struct Classes {
    parsed: moka::sync::Cache<[u8; 32], Arc<Class>>,
    /// One is parsed at a time: what is not kept of a class takes room meanwhile.
    parsing: Mutex<()>,
    max_bytes: usize,
}

impl Classes {
    /// Classes of at most so many bytes: their JSON, and what is kept of it.
    pub(super) fn new(max_bytes: usize) -> Classes {
        let weight = |class: &Arc<Class>| u32::try_from(class.weight() + ENTRY_OVERHEAD).unwrap_or(u32::MAX);
        let parsed = moka::sync::Cache::builder()
            .max_capacity(REMEMBERED_BYTES)
            .weigher(move |_: &[u8; 32], class| weight(class))
            .build();
        Classes { parsed, parsing: Mutex::default(), max_bytes }
    }

    /// The class of this JSON text, as a module reads it.
    pub(super) fn get(&self, json: &str, module: Module) -> Result<Arc<Class>> {
        let refuse = |bytes: usize, what: &str| {
            metrics().refused(Refusal::MaxClassBytes);
            let max = self.max_bytes;
            let message = format!(
                "a class of {bytes} bytes{what}, {max} are allowed: leave out of class_json what the module does not need, \
                 or raise --max-class-bytes"
            );
            Error::new(ErrorKind::TooLarge, message)
        };
        if json.len() > self.max_bytes {
            return Err(refuse(json.len(), ""));
        }
        let hash: [u8; 32] = Sha256::new().chain_update(module.name()).chain_update(json).finalize().into();
        if let Some(class) = self.parsed.get(&hash) {
            return Ok(class);
        }
        let class = {
            // Guards nothing that a panic could spoil.
            let _alone = self.parsing.lock().unwrap_or_else(PoisonError::into_inner);
            Class::of_module(json, module).map_err(|error| error.parameter("class_json"))?
        };
        let weight = class.weight();
        if weight > self.max_bytes {
            return Err(refuse(weight, " in memory"));
        }
        let class = Arc::new(class);
        self.parsed.insert(hash, class.clone());
        self.parsed.run_pending_tasks();
        Ok(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1024 * 1024;

    #[test]
    fn a_class_is_parsed_once_and_never_confused() {
        let classes = Classes::new(MAX);
        let first = classes.get(r#"{"class":"A"}"#, Module::default()).expect("a class");
        assert!(Arc::ptr_eq(&first, &classes.get(r#"{"class":"A"}"#, Module::default()).expect("a class")));
        assert_eq!(classes.get(r#"{"class":"B"}"#, Module::default()).expect("a class").name, "B");
        assert!(classes.get("[]", Module::default()).is_err());
        for i in 0..500 {
            assert_eq!(
                classes.get(&format!(r#"{{"class":"C{i}"}}"#), Module::default()).expect("a class").name,
                format!("C{i}")
            );
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes() {
        let classes = Classes::new(MAX);
        for i in 0..100 {
            let properties: Vec<_> = (0..5000).map(|n| format!(r#"{{"name":"p{n}","dataType":["text"]}}"#)).collect();
            let json = format!(r#"{{"class":"C{i}","properties":[{}]}}"#, properties.join(","));
            classes.get(&json, Module::default()).expect("a class");
            assert!(classes.parsed.weighted_size() <= REMEMBERED_BYTES);
        }
        assert!(classes.parsed.weighted_size() > REMEMBERED_BYTES / 2, "room is used");
    }

    #[test]
    fn what_is_no_class_is_the_field_s_fault() {
        let error = Classes::new(MAX).get("[]", Module::default()).expect_err("no object");
        assert_eq!((error.kind(), error.parameter_name()), (ErrorKind::InvalidArgument, Some("class_json")));
    }

    #[test]
    fn a_class_that_is_too_large_is_refused_by_its_text_and_by_what_is_kept_of_it() {
        let classes = Classes::new(MAX);
        let refused = |json: &str| {
            let error = classes.get(json, Module::default()).expect_err("too large");
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            assert!(error.message().contains("--max-class-bytes"), "{error}");
        };
        refused(&format!(r#"{{"class":"{}"}}"#, "x".repeat(MAX)));
        // Small in JSON, large in memory.
        refused(&format!(r#"{{"class":"A","properties":[{}]}}"#, vec!["{}"; MAX / 4].join(",")));
        let maps = vec![r#"{"":0}"#; MAX / 10].join(",");
        refused(&format!(r#"{{"class":"A","moduleConfig":{{"text2vec-transformers":{{"x":[{maps}]}}}}}}"#));
        // What is not kept does not count in memory.
        let other = format!(r#"{{"class":"A","moduleConfig":{{"other":{{"x":[{maps}]}}}}}}"#);
        assert!(classes.get(&other, Module::default()).expect("a class").weight() < 1024);
    }
}

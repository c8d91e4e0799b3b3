//! Arbitrary class and object JSON, and a target vector: nothing may panic, and what is answered must hold together.
//! The contract is included by path, so that the target builds without the rest of the sidecar.
#![no_main]
#![allow(dead_code)]

#[path = "../../../src/contract/mod.rs"]
mod contract;
#[path = "../../../src/error.rs"]
mod error;

use contract::class::Class;
use contract::object_text::{Object, object_text};
use libfuzzer_sys::fuzz_target;

// Three parts, separated by NUL: class, object, target vector.
fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(3, '\0');
    let (class, object) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let target = parts.next().unwrap_or_default();
    let Ok(class) = Class::from_json(class) else { return };
    let settings = class.settings(target);
    for auto_schema in [false, true] {
        let validation = class.validate(target, auto_schema);
        if settings.dimensions.is_some_and(|dimensions| dimensions < 1) && validation.error.is_none() {
            assert!(!validation.warnings.is_empty(), "dimensions below 1 pass without a warning");
        }
    }
    let Ok(object) = Object::from_json("", object) else { return };
    for lowercase in [false, true] {
        if let Ok(Some(text)) = object_text(&object, &class, &settings, lowercase) {
            assert!(!text.is_empty(), "an empty text is no text");
        }
    }
});

//! Weaviate's modules whose contract is carried here: they read classes alike, and differ in their defaults.

use crate::error::{Error, Result};

/// A module of Weaviate's that turns texts into vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Module {
    /// `text2vec-transformers`.
    #[default]
    Transformers,
    /// `text2vec-model2vec`.
    Model2vec,
}

impl Module {
    /// All of them.
    pub const ALL: [Module; 2] = [Module::Transformers, Module::Model2vec];

    /// The name under which classes configure it.
    pub const fn name(self) -> &'static str {
        match self {
            Module::Transformers => "text2vec-transformers",
            Module::Model2vec => "text2vec-model2vec",
        }
    }

    /// The module of a name; an empty one is `text2vec-transformers`.
    ///
    /// # Errors
    /// `InvalidArgument` for any other name.
    pub fn named(name: &str) -> Result<Module> {
        if name.is_empty() {
            return Ok(Module::default());
        }
        Module::ALL.into_iter().find(|module| module.name() == name).ok_or_else(|| {
            Error::invalid(format!("no module '{name}' is known here: use text2vec-transformers or text2vec-model2vec"))
                .parameter("module_name")
        })
    }

    /// `vectorizeClassName` of a class that leaves it out: what Weaviate fills in when it stores the class.
    pub(super) fn vectorizes_class_name(self) -> bool {
        self == Module::Transformers
    }

    /// Whether classes may choose pooling and dimensions, and URLs for passages and queries apart.
    pub(super) fn has_model_settings(self) -> bool {
        self == Module::Transformers
    }

    /// Whether `LOWERCASE_VECTORIZATION_INPUT` counts.
    pub fn may_lowercase(self) -> bool {
        self == Module::Transformers
    }
}

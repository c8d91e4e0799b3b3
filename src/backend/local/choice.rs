//! What is chosen for a model by its own files and the operator's options, before anything is loaded.

use super::options::LocalOptions;
use super::plan::Switches;
use crate::contract::request::Profile;
use crate::error::{Error, Place, Result};
use crate::model::modules::{ModelDescription, published_prefixes};
use text2vec_engine::onnx;

/// What a model decides by its own files, where the operator leaves it to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// By which rules vectors are made.
    pub profile: Profile,
    /// What chose the profile.
    pub profile_chosen_by: &'static str,
    /// Whether the task is put in front of texts.
    pub task_prefixes: bool,
    /// The model's marker file says so, or denies it.
    pub prefixes_are_marked: bool,
}

/// What would be chosen for a model, without loading it.
///
/// # Errors
/// `Config`, as loading the model would refuse it, for what is read first.
pub fn chosen(options: &LocalOptions) -> Result<Chosen> {
    let description = describe(options)?;
    let (profile, profile_chosen_by) = choose_profile(options, &description)?;
    let task_prefixes = switches(options, &description).task_prefixes;
    let prefixes_are_marked = description.markers.use_query_passage_prefixes.is_some();
    Ok(Chosen { profile, profile_chosen_by, task_prefixes, prefixes_are_marked })
}

/// What the directory says.
pub(super) fn describe(options: &LocalOptions) -> Result<ModelDescription> {
    if !options.dir.is_dir() {
        return Err(Error::config(format!(
            "the model directory {} does not exist: --model takes a directory or a Hub id",
            options.dir.display()
        ))
        .naming(Place::File(options.dir.clone())));
    }
    ModelDescription::read(&options.dir, options.marker_root.as_deref().unwrap_or(&options.dir))
}

/// The profile, and what chose it.
pub(super) fn choose_profile(
    options: &LocalOptions,
    description: &ModelDescription,
) -> Result<(Profile, &'static str)> {
    let (profile, reason) = match options.profile {
        Some(profile) => (profile, "--profile"),
        None if !description.markers.onnx_runtime && onnx::is_only_weights(&options.dir) => {
            (Profile::Onnx, "there are no weights but model_quantized.onnx")
        }
        None => description.auto_profile(options.hints, options.id.as_deref()),
    };
    match (description.is_static(), profile) {
        (true, Profile::Transformers | Profile::Onnx | Profile::CrossEncoder) => Err(Error::config(format!(
            "a model2vec model cannot be served under the profile {profile}: use sentence-transformers, as the \
             reference does, or model2vec, as the model2vec container does"
        ))
        .parameter("--profile")),
        (false, Profile::Model2vec) => Err(Error::config(format!(
            "{} is a {} model, and the profile model2vec is for tables of token vectors: leave --profile out, or name the \
             model that it is for (--profile <name>=model2vec)",
            description.dir.display(),
            description.model_type()
        ))
        .parameter("--profile")),
        _ => Ok((profile, reason)),
    }
}

/// The operator's switches, where he leaves one to the model with what that says.
pub(super) fn switches(options: &LocalOptions, description: &ModelDescription) -> Switches {
    Switches {
        direct_tokenize: options.direct_tokenize,
        task_prefixes: options
            .task_prefixes
            .or(description.markers.use_query_passage_prefixes)
            .unwrap_or(options.reference_prefixes || options.id.as_deref().is_some_and(published_prefixes)),
        apply_dimensions: options.apply_dimensions,
    }
}

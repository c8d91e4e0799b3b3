//! `embed`: vectors on the command line.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::assemble::{inference, load};
use super::input::Lines;
use super::logs::init_logs;
use crate::backend::{Backend, ModelInfo};
use crate::config::{EmbedArgs, EmbedCommand};
use crate::contract::call::{Call, EmbedSettings, Text};
use crate::error::{Error, ErrorKind, Result};

/// Lines of standard input that `embed` works on at once.
const EMBED_LINES: usize = 64;

#[derive(Serialize)]
struct EmbedLine<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dims: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// One JSON line per text, in order; a text that cannot be embedded gets `error`, and the exit code tells.
pub(super) async fn embed(command: EmbedCommand, args: EmbedArgs) -> Result<()> {
    let EmbedCommand { choice, model } = command;
    init_logs(&model);
    let named = |error: Error| error.parameter("--model");
    let backend = load(&choice, &model, &inference(&model)?, named).await?;
    backend.info().makes_vectors().map_err(|error| error.with_kind(ErrorKind::Config))?;
    check_dimensions(args.dimensions, backend.info())?;
    let settings = EmbedSettings {
        task_name: Some(args.task.clone().into()),
        pooling: Some(args.pooling.clone()),
        dimensions: args.dimensions,
        prompt: None,
    };
    let progress = progress_bar(args.texts.len());
    let mut lines = Lines::of(std::io::stdin().lock(), "standard input");
    let mut given = args.texts.iter().map(|text| Text::from(text.clone()));
    let mut failed = 0;
    loop {
        let texts = match args.texts.is_empty() {
            true => lines.some(EMBED_LINES)?,
            false => given.by_ref().take(EMBED_LINES).collect(),
        };
        if texts.is_empty() {
            break;
        }
        let results = backend.embed(Call::new(texts.clone(), settings.clone())).await?;
        let mut out = std::io::stdout().lock();
        for (text, result) in texts.iter().zip(&results) {
            failed += usize::from(result.is_err());
            let vector = result.as_ref().ok().map(|embedding| &*embedding.vector);
            let error = result.as_ref().err().map(Error::message);
            let line = serde_json::to_string(&EmbedLine { text, vector, dims: vector.map(<[f32]>::len), error })
                .map_err(|error| Error::internal(format!("an answer could not be written as JSON: {error}")))?;
            match writeln!(out, "{line}") {
                Ok(()) => {}
                // `head` has seen enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(Error::internal(format!("standard output cannot be written: {error}"))),
            }
        }
        progress.inc(texts.len() as u64);
    }
    progress.finish_and_clear();
    match failed {
        0 => Ok(()),
        failed => Err(Error::invalid(format!("{failed} texts could not be embedded: see their \"error\""))),
    }
}

/// Refuses `--dimensions` that no vector of the model has.
pub(super) fn check_dimensions(wanted: Option<i64>, model: &ModelInfo) -> Result<()> {
    match (wanted, model.dimensions) {
        (Some(wanted), Some(there_are)) if wanted < 1 || wanted > there_are as i64 => Err(Error::config(format!(
            "--dimensions is {wanted}, but the vectors of {} have {there_are}: ask for 1 to {there_are}",
            model.name
        ))),
        _ => Ok(()),
    }
}

fn progress_bar(texts: usize) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let (length, template) = match texts {
        0 => (None, "{spinner} {pos} texts, {per_sec}"),
        texts => (Some(texts as u64), "{bar:40} {pos}/{len} texts, {per_sec}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(length, target).with_style(style)
}

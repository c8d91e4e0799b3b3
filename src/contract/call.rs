//! What a backend is asked in one call: texts, what is to be made of them all, and what the call itself brings along.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use super::request::Task;

/// Texts of which the same is to be made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Call {
    /// The texts, exactly as received.
    pub texts: Vec<Text>,
    /// What is made of them.
    pub purpose: Purpose,
    /// Until when the call may wait for its turn where much is waiting. Does not change the answers.
    pub deadline: Option<Instant>,
    /// The trace the call is part of, to be passed on with it. Does not change the answers.
    pub trace: Option<Arc<TraceContext>>,
}

/// What texts are given for.
#[derive(Debug, Clone, PartialEq)]
pub enum Purpose {
    /// Each becomes a vector.
    Embed(EmbedSettings),
    /// Each is scored against a query: what is made of the pair are logits, one for each of the model's labels.
    Score {
        /// Exactly as received.
        query: Text,
    },
}

impl Default for Purpose {
    fn default() -> Purpose {
        Purpose::Embed(EmbedSettings::default())
    }
}

/// How texts are embedded. Settings are kept as the caller wrote them; the backend's profile decides which of them count
/// (the reference container ignores `pooling` in one mode and `dimensions` in another). The default is a passage with
/// every setting left to its default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EmbedSettings {
    /// The task as the caller wrote it (`passage`, `query`, or any other word: the reference container takes all of them
    /// and, with prefixes on, puts the word in front of the text). `None` when nothing was said.
    pub task_name: Option<Cow<'static, str>>,
    /// `poolingStrategy` as the caller wrote it; empty or `None` means
    /// [`PoolingStrategy::MaskedMean`](super::request::PoolingStrategy::MaskedMean).
    pub pooling: Option<String>,
    /// Wanted number of dimensions, unchecked: profiles cut, ignore or slice from the end (negative), and refuse
    /// what would leave nothing.
    pub dimensions: Option<i64>,
    /// Replaces the model's own prompt for the task.
    pub prompt: Option<String>,
}

/// A text that surfaces, cache and backends share: cloned without copying it, and made of a `String` without copying it,
/// which an `Arc<str>` would not be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text(Arc<String>);

/// W3C Trace Context and Baggage as the caller sent them, to be passed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceContext {
    /// The header `traceparent`.
    pub traceparent: Option<String>,
    /// The header `tracestate`.
    pub tracestate: Option<String>,
    /// The header `baggage`.
    pub baggage: Option<String>,
}

impl Call {
    /// Texts with these settings, without deadline and trace.
    pub fn new(texts: Vec<Text>, settings: EmbedSettings) -> Call {
        Call { texts, purpose: Purpose::Embed(settings), deadline: None, trace: None }
    }

    /// Documents that are scored against a query.
    pub fn pairs(query: impl Into<Text>, documents: impl IntoIterator<Item = impl Into<Text>>) -> Call {
        let texts = documents.into_iter().map(Into::into).collect();
        Call { texts, purpose: Purpose::Score { query: query.into() }, deadline: None, trace: None }
    }

    /// Passages with every setting left to its default.
    pub fn passages(texts: impl IntoIterator<Item = impl Into<Text>>) -> Call {
        Call::new(texts.into_iter().map(Into::into).collect(), EmbedSettings::default())
    }

    /// Queries with every setting left to its default.
    pub fn queries(texts: impl IntoIterator<Item = impl Into<Text>>) -> Call {
        Call::new(texts.into_iter().map(Into::into).collect(), EmbedSettings::query())
    }

    /// One passage, as [`Call::passages`].
    pub fn passage(text: impl Into<Text>) -> Call {
        Call::passages([text])
    }

    /// One query, as [`Call::queries`].
    pub fn query(text: impl Into<Text>) -> Call {
        Call::queries([text])
    }

    /// How texts become vectors; `None`: they are to be scored.
    pub fn to_embed(&self) -> Option<&EmbedSettings> {
        match &self.purpose {
            Purpose::Embed(settings) => Some(settings),
            Purpose::Score { .. } => None,
        }
    }

    /// What the texts are: documents of a search that somebody waits for go with the queries.
    pub fn task(&self) -> Task {
        match &self.purpose {
            Purpose::Embed(settings) => settings.task(),
            Purpose::Score { .. } => Task::Query,
        }
    }
}

impl EmbedSettings {
    /// A query with every setting left to its default.
    pub fn query() -> EmbedSettings {
        EmbedSettings { task_name: Some(Task::Query.as_str().into()), ..EmbedSettings::default() }
    }

    /// Only the exact word `query` makes a query; everything else, nothing at all included, is a passage.
    pub fn task(&self) -> Task {
        match self.task_name.as_deref() {
            Some("query") => Task::Query,
            _ => Task::Passage,
        }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(Arc::new(text))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        text.to_owned().into()
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Text {
        text.clone().into()
    }
}

/// Copied only where others still have it.
impl From<Text> for String {
    fn from(text: Text) -> String {
        Arc::unwrap_or_clone(text.0)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_made_of_a_string_cloned_and_taken_back_without_a_copy() {
        let came = "a text".to_owned();
        let place = came.as_ptr();
        let text = Text::from(came);
        let other = text.clone();
        assert_eq!((text.as_ptr(), other.as_ptr()), (place, place));
        drop(other);
        let back = String::from(text);
        assert_eq!(back.as_ptr(), place);
    }

    #[test]
    fn only_the_word_query_makes_a_query() {
        assert_eq!(Call::query("a").task(), Task::Query);
        assert_eq!(Call::passage("a").task(), Task::Passage);
        for other in ["passage", "Query", "", "odd"] {
            let settings = EmbedSettings { task_name: Some(other.into()), ..EmbedSettings::default() };
            assert_eq!(settings.task(), Task::Passage, "{other}");
        }
    }
}

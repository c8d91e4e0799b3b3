//! What Weaviate's errors mean: whose fault each is, and whether it passes.
//!
//! Weaviate has no codes for most of them, so they are told by their words, which are those of 1.38; words that
//! are quoted are a user's and say nothing. Whatever is not known here counts as the request's, and passes or does not.

use serde_json::Value;
use tonic::{Code, Status};

use crate::outage::Failure;
use crate::transport::{causes, mistake};

/// The same error of so many objects, and of no fewer, is not theirs.
const MANY: usize = 10;

/// Whether an error is the object's own fault: Weaviate looks at objects before it writes any.
pub(crate) fn is_the_object_s(reason: &str) -> bool {
    let reason = unquoted(reason);
    (reason.contains("invalid ") && reason.contains(" property ")) || reason.contains("no such prop")
}

/// Whether an error may pass by itself.
pub(crate) fn is_passing(reason: &str) -> bool {
    let reason = unquoted(reason).to_lowercase();
    let words = [
        "not enough memory",
        "read-only",
        "no space left",
        "timeout",
        "timed out",
        "deadline",
        "context canceled",
        "unavailable",
        "connection",
        "replica",
        "leader",
        "too many",
        "shutting down",
        "shutdown",
        "temporar",
    ];
    words.iter().any(|word| reason.contains(word))
}

/// Without what is quoted, which are names and values of users.
fn unquoted(reason: &str) -> String {
    reason.split(['\'', '"', '`']).step_by(2).collect::<Vec<_>>().join(" ")
}

pub(crate) fn is_too_large(reason: &str) -> bool {
    reason.contains("larger than max")
}

/// The error that all objects of a request have, if it is more than one.
pub(crate) fn all_the_same(errors: &[(usize, String)], objects: usize) -> Option<&str> {
    let (_, first) = errors.first()?;
    let is_all = objects >= MANY && errors.len() == objects && errors.iter().all(|(_, reason)| reason == first);
    (is_all && !is_passing(first) && !is_the_object_s(first)).then_some(first)
}

/// What a call that failed as a whole means.
pub(crate) fn failure(status: &Status) -> Failure {
    let said = match std::error::Error::source(status) {
        Some(cause) => format!("{}: {}", status.message(), causes(cause)),
        None => status.message().to_owned(),
    };
    if let Some(remedy) = mistake(&said) {
        return Failure::Never(format!("{said}: {remedy}"));
    }
    match status.code() {
        Code::Unauthenticated => {
            Failure::Never(format!("{said}: give a key by --weaviate-api-key (T2V_WEAVIATE_API_KEY)"))
        }
        Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented | Code::FailedPrecondition => {
            Failure::Never(said)
        }
        Code::OutOfRange => Failure::Never(said),
        Code::ResourceExhausted if is_too_large(&said) || said.contains("usage") => Failure::Never(said),
        Code::Unknown
            if said.contains("unauthorized") || said.contains("forbidden") || said.contains("invalid api key") =>
        {
            Failure::Never(format!("{said}: see --weaviate-api-key"))
        }
        _ => Failure::Later(said),
    }
}

/// What an answer of the REST API says went wrong.
pub(crate) fn said(answer: &Value) -> String {
    let listed = answer.get("error").and_then(Value::as_array).into_iter().flatten();
    let messages: Vec<_> = listed.filter_map(|error| error.get("message")?.as_str()).collect();
    match (messages.is_empty(), answer.get("message").and_then(Value::as_str)) {
        (true, Some(message)) => message.to_owned(),
        _ => messages.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_are_the_object_s_or_not() {
        for (reason, objects, passing) in [
            ("invalid date property 'seen' on class 'A': requires a string with a RFC3339 formatted date", true, false),
            (
                "invalid geoCoordinates property 'leader' on class 'Replica': missing required field 'longitude'",
                true,
                false,
            ),
            ("store is read-only due to: disk usage too high", false, true),
            ("not enough memory: 5 MB", false, true),
            ("insert to vector index: new node has a vector with length 3", false, false),
        ] {
            assert_eq!((is_the_object_s(reason), is_passing(reason)), (objects, passing), "{reason}");
        }
    }

    #[test]
    fn an_error_of_all_is_the_request_s() {
        let errors =
            |reason: &str, count: usize| vec![reason.to_owned(); count].into_iter().enumerate().collect::<Vec<_>>();
        assert_eq!(all_the_same(&errors("forbidden", MANY), MANY), Some("forbidden"));
        assert_eq!(all_the_same(&errors("forbidden", 1), 1), None, "it may be that object's");
        assert_eq!(all_the_same(&errors("a", MANY), MANY + 1), None);
        assert_eq!(all_the_same(&errors("store is read-only", MANY), MANY), None, "it may pass");
    }

    #[test]
    fn answers_of_rest_say_what_is_wrong() {
        assert_eq!(said(&json!({"error": [{"message": "a"}, {"message": "b"}]})), "a; b");
        assert_eq!(
            said(&json!({"code": 401, "message": "anonymous access not enabled"})),
            "anonymous access not enabled"
        );
        assert_eq!(said(&Value::Null), "");
    }
}

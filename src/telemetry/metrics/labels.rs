//! The values that labels can have. All are known beforehand, so every series is there from the first scrape, and none
//! comes from a request.

/// Declares an enum whose members stand for a label's values.
macro_rules! label {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $member:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $member,)* }

        impl $name {
            /// Every value.
            pub const ALL: &[$name] = &[$($name::$member,)*];

            /// As the label has it.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$member => $text,)* }
            }
        }
    };
}

label! {
    /// By which way a request came in.
    Surface {
        /// `/vectors` and `/meta`: the reference container's.
        T2v = "t2v",
        /// `/v1/…` and `/embeddings`.
        OpenAi = "openai",
        /// `/api/…`.
        Ollama = "ollama",
        /// `/`, `/embed`, `/tokenize`, `/decode`, `/info` and `/health`.
        Tei = "tei",
        /// `/rerank`, `/v1/rerank` and `/v2/rerank`.
        Rerank = "rerank",
        /// gRPC service `text2vec.v1.Reranker`.
        Reranker = "reranker",
        /// gRPC service `text2vec.v1.Vectorizer`.
        Vectorizer = "vectorizer",
        /// gRPC service `text2vec.v1.Module`.
        Module = "module",
        /// Everything else over HTTP: probes, metrics, paths that do not exist.
        Other = "other",
        /// Everything else over gRPC: health, reflection, services that do not exist.
        OtherGrpc = "other_grpc",
    }
}

impl Surface {
    /// Which surface a path belongs to, a model's name taken off.
    pub fn of(path: &str, grpc: bool) -> Surface {
        if grpc {
            return match path.strip_prefix("/text2vec.v1.").and_then(|rest| rest.split('/').next()) {
                Some("Vectorizer") => Surface::Vectorizer,
                Some("Module") => Surface::Module,
                Some("Reranker") => Surface::Reranker,
                _ => Surface::OtherGrpc,
            };
        }
        match path.trim_matches('/') {
            "vectors" | "meta" => Surface::T2v,
            "embeddings" => Surface::OpenAi,
            "rerank" | "v1/rerank" | "v2/rerank" => Surface::Rerank,
            "" | "embed" | "tokenize" | "decode" | "info" | "health" => Surface::Tei,
            rest if rest.starts_with("v1/") => Surface::OpenAi,
            rest if rest.starts_with("api/") => Surface::Ollama,
            _ => Surface::Other,
        }
    }

    /// Whether the codes of its answers are gRPC's.
    pub fn is_grpc(self) -> bool {
        matches!(self, Surface::Vectorizer | Surface::Reranker | Surface::Module | Surface::OtherGrpc)
    }

    /// Whether it has to do with texts; probes do not.
    pub fn is_traced(self) -> bool {
        !matches!(self, Surface::Other | Surface::OtherGrpc)
    }
}

label! {
    /// What a request spends its time on.
    Stage {
        /// Waiting for its turn.
        Queue = "queue",
        /// Text to token ids, by call.
        Tokenize = "tokenize",
        /// One forward pass, of a batch that may hold texts of many requests.
        Forward = "forward",
        /// One attempt at an upstream.
        Remote = "remote",
    }
}

label! {
    /// Which limit a request was refused for. Where a flag sets it, the flag's name.
    Refusal {
        /// Tokens that may wait.
        MaxWaitingTokens = "max_waiting_tokens",
        /// Its turn did not come in time.
        MaxWait = "max_wait",
        /// Its body did not arrive in time.
        MaxBodyWait = "max_body_wait",
        /// A connection's first byte, or all of a head, did not arrive in time.
        MaxHeadWait = "max_head_wait",
        /// Size of a head.
        MaxHeadBytes = "max_head_bytes",
        /// Bodies in memory.
        MaxInflightBytes = "max_inflight_bytes",
        /// Vectors in memory.
        MaxAnswerBytes = "max_answer_bytes",
        /// An answer that was begun was not read on.
        MaxWriteWait = "max_write_wait",
        /// Open connections.
        MaxConnections = "max_connections",
        /// Size of a body or of a gRPC message.
        MaxBodyBytes = "max_body_bytes",
        /// Texts in one request.
        MaxTexts = "max_texts",
        /// Size of a text; its neighbours were served.
        MaxTextBytes = "max_text_bytes",
        /// Tokens asked for, or token ids sent.
        MaxTokenizeBytes = "max_tokenize_bytes",
        /// Size of a class.
        MaxClassBytes = "max_class_bytes",
        /// Requests under way to one upstream.
        UpstreamConcurrency = "upstream_concurrency",
        /// The caller's own patience.
        Deadline = "deadline",
        /// The model is being loaded.
        NotReady = "not_ready",
        /// No or a wrong token.
        Credentials = "credentials",
    }
}

label! {
    /// Why an attempt at an upstream brought no vectors.
    UpstreamError {
        /// No connection.
        Unsent = "unsent",
        /// The connection broke before an answer.
        Broken = "broken",
        /// It asked for patience.
        Busy = "busy",
        /// No answer in time.
        Late = "late",
        /// An answer that cannot be used.
        Fault = "fault",
        /// It refused the request.
        Refused = "refused",
    }
}

label! {
    /// Who is served first.
    Priority {
        /// Queries.
        Query = "query",
        /// Passages.
        Passage = "passage",
    }
}

/// HTTP statuses that are counted by themselves; 499 is a caller who left before the answer. The last one stands for all
/// others.
pub const HTTP_CODES: &[(u16, &str)] = &[
    (200, "200"),
    (204, "204"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (413, "413"),
    (422, "422"),
    (424, "424"),
    (429, "429"),
    (499, "499"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (0, "other"),
];

/// gRPC codes by their numbers.
pub const GRPC_CODES: &[&str] = &[
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// An HTTP status.
    Http(u16),
    /// A gRPC code's number.
    Grpc(u16),
}

impl Code {
    /// A caller who left before the answer.
    pub fn left(grpc: bool) -> Code {
        if grpc { Code::Grpc(1) } else { Code::Http(499) }
    }

    /// Place in [`HTTP_CODES`] or [`GRPC_CODES`].
    pub(super) fn index(self) -> usize {
        match self {
            Code::Http(status) => {
                HTTP_CODES.iter().position(|&(code, _)| code == status).unwrap_or(HTTP_CODES.len() - 1)
            }
            // 2 is UNKNOWN.
            Code::Grpc(code) if usize::from(code) < GRPC_CODES.len() => usize::from(code),
            Code::Grpc(_) => 2,
        }
    }

    /// As the label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Http(_) => HTTP_CODES[self.index()].1,
            Code::Grpc(_) => GRPC_CODES[self.index()],
        }
    }

    /// Whether the server, not the caller, is to blame: what makes a span an error.
    pub fn is_failure(self) -> bool {
        match self {
            Code::Http(status) => status >= 500,
            Code::Grpc(code) => matches!(code, 2 | 4 | 12 | 13 | 14 | 15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_belong_to_surfaces() {
        for (path, grpc, surface) in [
            ("/vectors", false, Surface::T2v),
            ("/vectors/", false, Surface::T2v),
            ("/embed/", false, Surface::Tei),
            ("/", false, Surface::Tei),
            ("/tokenize", false, Surface::Tei),
            ("/v1/embeddings", false, Surface::OpenAi),
            ("/embeddings", false, Surface::OpenAi),
            ("/rerank", false, Surface::Rerank),
            ("/v1/rerank/", false, Surface::Rerank),
            ("/text2vec.v1.Reranker/Rerank", true, Surface::Reranker),
            ("/api/embed", false, Surface::Ollama),
            ("/.well-known/ready", false, Surface::Other),
            ("/metrics", false, Surface::Other),
            ("/v1", false, Surface::Other),
            ("/text2vec.v1.Vectorizer/Vectorize", true, Surface::Vectorizer),
            ("/text2vec.v1.Module/VectorizeBatch", true, Surface::Module),
            ("/text2vec.v1.Vectorizers/X", true, Surface::OtherGrpc),
            ("/grpc.health.v1.Health/Check", true, Surface::OtherGrpc),
            ("/vectors", true, Surface::OtherGrpc),
        ] {
            assert_eq!(Surface::of(path, grpc), surface, "{path}");
            assert_eq!(surface.is_grpc(), grpc, "{path}");
        }
    }

    #[test]
    fn codes_have_a_place_each() {
        assert_eq!(Code::Http(200).as_str(), "200");
        assert_eq!(Code::Http(418).as_str(), "other");
        assert_eq!(Code::Grpc(0).as_str(), "OK");
        assert_eq!(Code::Grpc(16).as_str(), "UNAUTHENTICATED");
        assert_eq!(Code::Grpc(99).as_str(), "UNKNOWN");
        assert_eq!((Code::left(true).as_str(), Code::left(false).as_str()), ("CANCELLED", "499"));
    }
}

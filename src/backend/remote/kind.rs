//! What the dialling side has to know of a wire format, as plain data: its name, its URL schemes, its paths. Each
//! format states it in its own file below [`formats`](super::formats); addresses carry it from then on.

/// A wire format's name and rules for URLs.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The name in `/meta`, logs and spans.
    pub name: &'static str,
    /// The URL schemes that lead to it.
    pub schemes: &'static [Scheme],
    /// How a path is put behind the base URL.
    pub joining: Joining,
    /// Where its API begins behind the base URL, which may end with it already: `/v1`. Empty: at the base.
    pub api_root: &'static str,
    /// Answers with success when the upstream is ready; below the API's root.
    pub ready: &'static str,
    /// Asked of a replica that is out of service; right behind the base URL.
    pub health: &'static str,
    /// Paths of its requests, with which people end a base URL by mistake.
    pub request_paths: &'static [&'static str],
    /// Whether connections speak HTTP/2 from their first byte.
    pub http2: bool,
}

/// A scheme of an upstream's URL.
#[derive(Debug, PartialEq, Eq)]
pub struct Scheme {
    /// As it is written.
    pub name: &'static str,
    /// The scheme that goes over the wire for it: `http` or `https`.
    pub wire: &'static str,
    /// Whether it says what speaks there. The web's own schemes do not: they mean their format until another is found.
    pub names_kind: bool,
}

impl Scheme {
    /// A scheme that says what speaks there.
    pub const fn naming(name: &'static str, wire: &'static str) -> Scheme {
        Scheme { name, wire, names_kind: true }
    }

    /// `http` and `https`.
    pub const fn bare(name: &'static str) -> Scheme {
        Scheme { name, wire: name, names_kind: false }
    }
}

/// How base URL and path become one URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joining {
    /// As text, as Weaviate does it: a trailing slash gives two, a query swallows the path.
    Text,
    /// By their meaning: query and fragment left out, slashes not doubled.
    Meaning,
}

/// The path at which Weaviate asks whether an inference container is ready.
pub const READY: &str = "/.well-known/ready";

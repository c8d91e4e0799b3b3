//! Everything a server can be told.

use std::sync::Arc;
use std::time::Duration;

use super::access::Access;
use super::cors::Origins;
use super::limits::Limits;
use super::tls::Tls;
use crate::backend::Directory;
use crate::backend::remote::itself::Itself;
use crate::contract::endpoint::Endpoints;

/// How the surfaces answer that come from elsewhere (OpenAI's, Ollama's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SurfaceOptions {
    /// Vectors are scaled to length 1, as these APIs' own servers do; else they are as the profile makes them.
    pub normalize: bool,
}

impl Default for SurfaceOptions {
    fn default() -> Self {
        SurfaceOptions { normalize: true }
    }
}

/// What the module service is told by the operator, as Weaviate's module is by its environment.
#[derive(Debug, Clone, Default)]
pub struct ModuleOptions {
    /// Where texts are embedded when the class does not say, and which URLs mean this sidecar.
    pub endpoints: Endpoints,
    /// Objects' texts are lower-cased (`LOWERCASE_VECTORIZATION_INPUT`).
    pub lowercase_input: bool,
    /// The backends behind URLs that classes name; without, they may name none.
    pub upstreams: Option<Arc<dyn Directory>>,
}

/// When connections and the server end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// After this long a connection is asked to make room for a new one (`Connection: close`, GOAWAY), so that replicas
    /// added behind one address get traffic.
    pub max_connection_age: Duration,
    /// A connection without a request under way is closed after this long. Go clients give theirs up after 90 s; a server
    /// that closes first makes them see resets.
    pub max_connection_idle: Duration,
    /// From the wish to stop until new connections are refused: time for others to notice that the server is not ready.
    pub drain_delay: Duration,
    /// From the wish to stop until everything ends, finished or not.
    pub shutdown_grace: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Lifetimes {
            max_connection_age: Duration::from_secs(300),
            max_connection_idle: Duration::from_secs(150),
            drain_delay: Duration::from_secs(1),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

/// Everything [`run`](super::run()) can be told.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Limits on requests.
    pub limits: Limits,
    /// How the surfaces that come from elsewhere answer.
    pub surfaces: SurfaceOptions,
    /// The module service.
    pub module: ModuleOptions,
    /// Ends of connections and of the server.
    pub lifetimes: Lifetimes,
    /// A browser is given a page at `/`, all others a text.
    pub page: bool,
    /// What a request must show.
    pub access: Access,
    /// Whose pages a browser lets read the answers; `None`: nobody's.
    pub cors: Option<Origins>,
    /// How connections are encrypted; `None`: not at all.
    pub tls: Option<Arc<Tls>>,
    /// How many files this process may have open, connections among them; `None`: not known.
    pub open_files: Option<u64>,
    /// The operator asks for a GPU (`ENABLE_CUDA`), which this build cannot use; `/meta` says so.
    pub cuda_wanted: bool,
    /// How this process knows what it asks itself, if it forwards.
    pub itself: Option<Itself>,
}

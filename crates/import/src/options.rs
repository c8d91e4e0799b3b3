//! What an import is told.

use std::path::PathBuf;
use std::time::Duration;

/// How the rows of a file are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    Jsonl,
    /// A header with names of properties, then a row a line.
    Csv,
    /// Columns, compressed.
    Parquet,
}

/// Where the id of an object comes from, if its row has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdRule {
    /// Made of the row's position in the file and its content: the same in every run over the same file.
    Position,
    /// Made of the row's content alone: equal rows are one object, wherever they stand.
    Content,
    /// A property: a UUID as it is, any other text or number through a hash (UUID version 5).
    Property(String),
}

/// Whose an object is, in a collection with tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRule {
    /// As its row says (`tenant`), if it does.
    Row,
    /// One for all.
    Named(String),
    /// A property's value, which stays a property if the class has one of that name.
    Property(String),
}

/// How many replicas of a collection must have an object before it counts as inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// One.
    One,
    /// More than half.
    Quorum,
    /// All.
    All,
}

/// The rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOptions {
    /// The file; `-` is standard input, which cannot be gone on with after a break.
    pub path: PathBuf,
    /// `None`: by the file's name.
    pub format: Option<Format>,
    /// CSV: between the cells.
    pub delimiter: u8,
    /// CSV: between the elements of a list in a cell; `None`: such cells are JSON.
    pub list_delimiter: Option<char>,
    /// The largest row accepted, in bytes of its text.
    pub max_row_bytes: usize,
}

/// The Weaviate that is filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeaviateOptions {
    /// Base URL of its REST API.
    pub url: String,
    /// URL of its gRPC port; `None`: the same scheme and host, port 50051.
    pub grpc_url: Option<String>,
    /// Its API key.
    pub api_key: Option<String>,
    /// Replicas; `None`: as the collection is configured.
    pub consistency: Option<Consistency>,
}

/// The sidecar that makes the vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarOptions {
    /// `host:port` or URL (`http`, `https`, `grpc`, `grpcs`); behind it may stand `/models/<name>`.
    pub url: String,
    /// Its token.
    pub token: Option<String>,
    /// The model's name there; empty: as the class says, else its default one.
    pub model: String,
}

/// Everything an import can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The rows.
    pub source: SourceOptions,
    /// Name of the collection.
    pub collection: String,
    /// File with the class's JSON, in place of asking Weaviate for it. Then nothing is inserted, and `output` must be there.
    pub class_file: Option<PathBuf>,
    /// The Weaviate that is filled.
    pub weaviate: WeaviateOptions,
    /// The sidecar that makes the vectors.
    pub sidecar: SidecarOptions,
    /// PEM file of certificate authorities to believe beside the system's.
    pub ca: Option<PathBuf>,
    /// Ids of rows without one.
    pub ids: IdRule,
    /// Tenants.
    pub tenant: TenantRule,
    /// Tenants that are not there are made.
    pub create_tenants: bool,
    /// Properties that the class does not have are sent too: Weaviate adds them to it, if it may.
    pub allow_new_properties: bool,
    /// Most rows of a chunk: what one stream to the sidecar and one request to Weaviate hold.
    pub chunk_rows: usize,
    /// Most bytes of rows in a chunk, unless one row alone has more.
    pub chunk_bytes: usize,
    /// Folder of checkpoints; `None`: none is written, and a break begins anew.
    pub checkpoints: Option<PathBuf>,
    /// A checkpoint that is there is not gone on with.
    pub restart: bool,
    /// File that rows go to that could not be imported, as JSON lines.
    pub failed: Option<PathBuf>,
    /// After so many failed rows the import ends.
    pub max_errors: u64,
    /// After so long without any success, of the sidecar or of Weaviate, the import ends.
    pub max_outage: Duration,
    /// File that objects and vectors go to as JSON lines, in place of Weaviate; `-` is standard output.
    pub output: Option<PathBuf>,
    /// Write `output` anew if something is in it.
    pub overwrite: bool,
    /// Every row is read and checked and the first chunk embedded; nothing is written.
    pub dry_run: bool,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Of a small import.
    pub(crate) fn options() -> Options {
        Options {
            source: SourceOptions {
                path: PathBuf::from("a.jsonl"),
                format: None,
                delimiter: b',',
                list_delimiter: None,
                max_row_bytes: 1000,
            },
            collection: "A".into(),
            class_file: None,
            weaviate: WeaviateOptions { url: "http://a".into(), grpc_url: None, api_key: None, consistency: None },
            sidecar: SidecarOptions { url: "a:1".into(), token: None, model: String::new() },
            ca: None,
            ids: IdRule::Position,
            tenant: TenantRule::Row,
            create_tenants: false,
            allow_new_properties: false,
            chunk_rows: 2,
            chunk_bytes: 100,
            checkpoints: None,
            restart: false,
            failed: None,
            max_errors: 1,
            max_outage: Duration::from_secs(1),
            output: None,
            overwrite: false,
            dry_run: false,
        }
    }
}

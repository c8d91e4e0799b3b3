//! The flags of `import`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser, OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use text2vec_import::{
    Consistency, Format, IdRule, Options, SidecarOptions, SourceOptions, TenantRule, WeaviateOptions,
};

use super::numbers::{A_YEAR, BYTES, MANY, between};
use super::security::Secret;
use crate::error::{Error, Result};

/// Names of standard output beside `-`.
const STANDARD_OUTPUT: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatChoice {
    /// A JSON object a line
    Jsonl,
    /// A header, then a row a line
    Csv,
    /// Columns
    Parquet,
}

/// Replicas that must have an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConsistencyChoice {
    /// One
    One,
    /// More than half
    Quorum,
    /// All
    All,
}

/// Where ids come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IdChoice {
    /// The row's position in the file and its content
    Position,
    /// The row's content alone
    Content,
}

/// Flags of `import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// File of objects: JSON lines, CSV or Parquet (.gz of the first two as well); - is standard input
    #[arg(value_name = "FILE")]
    pub objects: PathBuf,
    /// Collection that they go into
    #[arg(long, env = "T2V_COLLECTION", required_unless_present = "class_file", value_parser = NonEmptyStringValueParser::new())]
    pub collection: Option<String>,
    /// URL of Weaviate's REST API
    #[arg(
        long,
        env = "T2V_WEAVIATE",
        value_name = "URL",
        hide_env_values = true,
        default_value = "http://localhost:8080"
    )]
    pub weaviate: String,
    /// URL of Weaviate's gRPC port [default: the same host, port 50051]
    #[arg(long, env = "T2V_WEAVIATE_GRPC", value_name = "URL", hide_env_values = true)]
    pub weaviate_grpc: Option<String>,
    /// Weaviate's API key; better in the variable than on the command line
    #[arg(long, env = "T2V_WEAVIATE_API_KEY", value_name = "KEY", hide_env_values = true, value_parser = secret)]
    pub weaviate_api_key: Option<Secret>,
    /// host:port or URL of the sidecar that makes the vectors
    #[arg(long, env = "T2V_SIDECAR", value_name = "URL", hide_env_values = true, default_value = "localhost:8081")]
    pub sidecar: String,
    /// The sidecar's token; better in the variable than on the command line
    #[arg(long, env = "T2V_SIDECAR_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = secret)]
    pub sidecar_token: Option<Secret>,
    /// Name of the sidecar's model [default: as the class says, else its default one]
    #[arg(long, env = "T2V_SIDECAR_MODEL", value_name = "NAME", default_value = "")]
    pub sidecar_model: String,
    /// PEM file of certificate authorities to believe beside the system's
    #[arg(long, env = "T2V_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// How the file is written [default: by its name]
    #[arg(long, env = "T2V_FORMAT", value_enum)]
    pub format: Option<FormatChoice>,
    /// CSV: the character between cells [default: a comma, in .tsv a tab]
    #[arg(long, env = "T2V_DELIMITER", value_name = "CHARACTER", default_value = ",", hide_default_value = true,
          value_parser = delimiter)]
    pub delimiter: u8,
    /// CSV: the character between the elements of a list [default: lists are JSON]
    #[arg(long, env = "T2V_LIST_DELIMITER", value_name = "CHARACTER")]
    pub list_delimiter: Option<char>,
    /// What the id of a row without one is made of: its position in the file and its content, or its content alone
    #[arg(long, env = "T2V_IDS", value_enum, default_value = "position")]
    pub ids: IdChoice,
    /// Property that the id is made of: a UUID as it is, anything else through a hash
    #[arg(long, env = "T2V_ID_PROPERTY", value_name = "NAME")]
    pub id_property: Option<String>,
    /// Tenant of all objects [default: what each row's "tenant" says]
    #[arg(long, env = "T2V_TENANT", value_name = "NAME", conflicts_with = "tenant_property")]
    pub tenant: Option<String>,
    /// Property that says the tenant of an object
    #[arg(long, env = "T2V_TENANT_PROPERTY", value_name = "NAME")]
    pub tenant_property: Option<String>,
    /// Make tenants that are not there
    #[arg(long, env = "T2V_CREATE_TENANTS", num_args = 0..=1, default_value = "false", default_missing_value = "true",
          require_equals = true, value_name = "BOOL", action = clap::ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    pub create_tenants: bool,
    /// Send properties that the class does not have too: Weaviate adds them to it
    #[arg(long, env = "T2V_ALLOW_NEW_PROPERTIES", num_args = 0..=1, default_value = "false", require_equals = true,
          default_missing_value = "true", value_name = "BOOL", action = clap::ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    pub allow_new_properties: bool,
    /// Replicas that must have an object before it counts as inserted [default: as the collection says]
    #[arg(long, env = "T2V_CONSISTENCY", value_enum)]
    pub consistency: Option<ConsistencyChoice>,
    /// Read and check every row, embed the first ones, and write nothing
    #[arg(long, env = "T2V_DRY_RUN", num_args = 0..=1, default_value = "false", default_missing_value = "true",
          require_equals = true, value_name = "BOOL", action = clap::ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    pub dry_run: bool,
    /// Begin anew, though an import of this file was broken off; what is there is replaced, not doubled
    #[arg(long, env = "T2V_RESTART", num_args = 0..=1, default_value = "false", default_missing_value = "true",
          require_equals = true, value_name = "BOOL", action = clap::ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    pub restart: bool,
    /// Folder where it is noted how far an import is; empty: nowhere [default: $XDG_STATE_HOME/text2vec-sidecar/import]
    #[arg(long, env = "T2V_CHECKPOINTS", value_name = "FOLDER",
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub checkpoints: Option<PathBuf>,
    /// File for the rows that could not be imported, as JSON lines
    #[arg(long, env = "T2V_FAILED", value_name = "FILE")]
    pub failed: Option<PathBuf>,
    /// Rows that may fail before the import ends
    #[arg(long, env = "T2V_MAX_ERRORS", default_value_t = 100, value_parser = between(1, MANY as u64))]
    pub max_errors: u64,
    /// Seconds that the sidecar or Weaviate may fail on end before the import does
    #[arg(long, env = "T2V_MAX_OUTAGE", value_name = "SECONDS", default_value_t = 300, value_parser = between(0, A_YEAR))]
    pub max_outage: u64,
    /// Largest row accepted, in bytes
    #[arg(long, env = "T2V_MAX_ROW_BYTES", default_value_t = 4 << 20, value_parser = between(1, BYTES))]
    pub max_row_bytes: usize,
    /// Most rows embedded and inserted together
    #[arg(long, env = "T2V_CHUNK_ROWS", default_value_t = 500, value_parser = between(1, 10_000_usize))]
    pub chunk_rows: usize,
    /// Most bytes of rows embedded and inserted together
    #[arg(long, env = "T2V_CHUNK_BYTES", default_value_t = 8 << 20, value_parser = between(1, BYTES))]
    pub chunk_bytes: usize,
    /// JSON file with the class, as GET /v1/schema/<name> answers it, in place of asking Weaviate; needs --output
    #[arg(long, env = "T2V_CLASS_FILE", value_name = "FILE", requires = "output")]
    pub class_file: Option<PathBuf>,
    /// Write objects and vectors to this file as JSON lines, and nothing into Weaviate; - is standard output
    #[arg(long, env = "T2V_OUTPUT", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the file of --output anew if something is in it already
    #[arg(long, env = "T2V_OVERWRITE", num_args = 0..=1, default_value = "false", default_missing_value = "true",
          require_equals = true, value_name = "BOOL", action = clap::ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    pub overwrite: bool,
}

impl ImportArgs {
    /// What the import is told.
    ///
    /// # Errors
    /// `Config` if there is no place for checkpoints, and for a file that would be lost.
    pub fn options(self) -> Result<Options> {
        // Before a server is asked.
        if self.class_file.is_none() && self.objects.as_os_str() != "-" {
            let unreadable = |error| Error::config(format!("{} cannot be read: {error}", self.objects.display()));
            if std::fs::metadata(&self.objects).map_err(unreadable)?.is_dir() {
                return Err(Error::config(format!("{} is a directory: give a file", self.objects.display())));
            }
        }
        let output = self.output.map(unless_standard_output);
        if let Some(path) = output.as_deref().filter(|_| !self.overwrite) {
            keep_what_is_in(path, &self.objects)?;
        }
        let checkpoints = match self.checkpoints {
            Some(folder) if folder.as_os_str().is_empty() => None,
            Some(folder) => Some(folder),
            None => Some(usual_checkpoints()?),
        };
        let tenant = match (self.tenant, self.tenant_property) {
            (Some(name), _) => TenantRule::Named(name),
            (None, Some(property)) => TenantRule::Property(property),
            (None, None) => TenantRule::Row,
        };
        let ids = match (self.id_property, self.ids) {
            (Some(property), _) => IdRule::Property(property),
            (None, IdChoice::Position) => IdRule::Position,
            (None, IdChoice::Content) => IdRule::Content,
        };
        Ok(Options {
            source: SourceOptions {
                path: self.objects,
                format: self.format.map(|format| match format {
                    FormatChoice::Jsonl => Format::Jsonl,
                    FormatChoice::Csv => Format::Csv,
                    FormatChoice::Parquet => Format::Parquet,
                }),
                delimiter: self.delimiter,
                list_delimiter: self.list_delimiter,
                max_row_bytes: self.max_row_bytes,
            },
            collection: self.collection.unwrap_or_default(),
            class_file: self.class_file,
            weaviate: WeaviateOptions {
                url: self.weaviate,
                grpc_url: self.weaviate_grpc,
                api_key: self.weaviate_api_key.map(|Secret(key)| key),
                consistency: self.consistency.map(|consistency| match consistency {
                    ConsistencyChoice::One => Consistency::One,
                    ConsistencyChoice::Quorum => Consistency::Quorum,
                    ConsistencyChoice::All => Consistency::All,
                }),
            },
            sidecar: SidecarOptions {
                url: self.sidecar,
                token: self.sidecar_token.map(|Secret(token)| token),
                model: self.sidecar_model,
            },
            ca: self.ca,
            ids,
            tenant,
            create_tenants: self.create_tenants,
            allow_new_properties: self.allow_new_properties,
            chunk_rows: self.chunk_rows,
            chunk_bytes: self.chunk_bytes,
            checkpoints,
            restart: self.restart,
            failed: self.failed,
            max_errors: self.max_errors,
            max_outage: Duration::from_secs(self.max_outage),
            output,
            overwrite: self.overwrite,
            dry_run: self.dry_run,
        })
    }
}

/// `-` for the other names of standard output: opened by one of them, a file that it is appended to (`>> FILE`) would be begun
/// anew.
fn unless_standard_output(path: PathBuf) -> PathBuf {
    let is_one = STANDARD_OUTPUT.iter().any(|name| path == Path::new(name));
    if is_one { PathBuf::from("-") } else { path }
}

/// Refuses a file that has something in it, and the one that is read first of all: nobody means to lose that. Pipes, terminals and
/// devices have nothing to lose.
fn keep_what_is_in(path: &Path, objects: &Path) -> Result<()> {
    let whole = |path: &Path| std::fs::canonicalize(path).ok();
    let refused = |what: &str| Err(Error::config(format!("{} {what}", path.display())).parameter("--output"));
    match std::fs::metadata(path) {
        _ if path.as_os_str() == "-" => Ok(()),
        Ok(found) if found.is_file() && whole(path) == whole(objects) => {
            refused("is the file that is read: name another file")
        }
        Ok(found) if found.is_file() && found.len() > 0 => {
            refused("has something in it already: name another file, or add --overwrite to lose what is there")
        }
        Ok(found) if found.is_dir() => refused("is a directory: name a file in it"),
        Err(_) if path.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) => {
            refused("cannot be written: there is no such folder")
        }
        _ => Ok(()),
    }
}

/// Where programs keep what they go on with.
fn usual_checkpoints() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .or_else(|| set("LOCALAPPDATA"));
    let base = base.ok_or_else(|| {
        let message = "there is no home folder to note in how far an import is: name one by --checkpoints, or none by --checkpoints ''";
        Error::config(message)
    })?;
    Ok(base.join("text2vec-sidecar/import"))
}

fn secret(text: &str) -> std::result::Result<Secret, String> {
    match text.trim() {
        "" => Err("it is empty: leave it out".to_owned()),
        text => Ok(Secret(text.to_owned())),
    }
}

fn delimiter(text: &str) -> std::result::Result<u8, String> {
    match text.as_bytes() {
        [one] if one.is_ascii() => Ok(*one),
        b"\\t" => Ok(b'\t'),
        _ => Err("use one character, such as ; or \\t for a tab".to_owned()),
    }
}

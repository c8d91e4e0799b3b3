//! Configuration: each flag is also a `T2V_*` variable ([`args`]). The variables of the reference container are read in
//! [`mod@reference`], and count where neither flag nor `T2V_*` variable is given. Between the two is a file of settings
//! ([`file`]), which `--config` names. All become [`Settings`], once: the commands read nothing else, and `--print-config` prints
//! their table as such a file.

// What stands above a flag is its help text, which is no Markdown.
#![allow(rustdoc::bare_urls, rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

mod args;
mod command_line;
mod device;
mod file;
mod import;
mod mistakes;
mod model_choice;
mod numbers;
mod reference;
#[cfg(test)]
mod round_trip;
mod secrets;
mod security;
mod serves;
mod settings;
mod table;
#[cfg(test)]
mod tests;
mod told;
mod upstream;

pub use args::{
    Cli, Command, CompareArgs, ConfigArgs, DownloadArgs, EmbedArgs, HealthcheckArgs, ManArgs, ModelArgs, ProfileChoice,
    ServeArgs,
};
pub use command_line::{CommandLine, command_line};
pub use import::{ConsistencyChoice, FormatChoice, IdChoice, ImportArgs};
pub use mistakes::REFERENCE_VARIABLES;
pub use model_choice::{DEFAULT_MODEL, ModelChoice};
pub use reference::ReferenceEnv;
pub use secrets::without_secrets;
pub use security::{Secret, SecurityArgs};
pub use serves::{Served, Serves, Side};
pub use settings::{
    CacheSettings, CompareCommand, EmbedCommand, LogSettings, ModelSettings, Profiles, SecuritySettings, Settings,
    UpstreamSettings,
};
pub use table::{Line, Source, Table};
pub use told::told;
pub use upstream::{AccessArgs, UpstreamArgs, UpstreamChoice};

//! Which subcommand it is.

use clap::FromArgMatches;

use super::compare::compare;
use super::documents::{completions, man};
use super::download::download;
use super::embed::embed;
use super::healthcheck::healthcheck;
use super::import::import;
use super::print_config::print_config;
use super::serve::{check, serve};
use crate::config::{Cli, Command, CommandLine, CompareCommand, EmbedCommand, Settings, told};
use crate::error::{Error, Result};

/// Runs the chosen subcommand to its end.
///
/// # Errors
/// Whatever keeps it from its end, with the setting at fault in front; for settings that do not fit, and for `--help`, the
/// process ends here as clap ends it.
pub fn run(line: &CommandLine) -> Result<()> {
    command(line).map_err(|error| told(line, error))
}

fn command(line: &CommandLine) -> Result<()> {
    let cli = Cli::from_arg_matches(&line.matches).unwrap_or_else(|error| error.exit());
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => {
            let settings = Settings::resolve(line, &args)?;
            match (args.print_config, args.check) {
                (true, _) => print_config(settings),
                (false, true) => to_its_end(check(settings)),
                (false, false) => to_its_end(serve(settings)),
            }
        }
        Command::Download(args) => to_its_end(download(args)),
        Command::Embed(args) => to_its_end(embed(EmbedCommand::resolve(line, &args)?, args)),
        Command::Import(args) => to_its_end(import(*args)),
        Command::Compare(args) => to_its_end(compare(CompareCommand::resolve(line, &args)?, args)),
        Command::Healthcheck(args) => to_its_end(healthcheck(args)),
        Command::Completions { shell } => completions(shell),
        Command::Man(args) => man(args.dir.as_deref()),
    }
}

/// Runs what waits for others, on all cores.
fn to_its_end(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("the async runtime could not be started: {error}")))?;
    let outcome = runtime.block_on(command);
    // A model that is being loaded is not waited for: whoever ends the process meanwhile has no use for it.
    runtime.shutdown_background();
    outcome
}

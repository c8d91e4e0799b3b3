//! Which subcommand it is.

use clap::{ArgMatches, FromArgMatches};

use super::compare::compare;
use super::download::download;
use super::embed::embed;
use super::healthcheck::healthcheck;
use super::import::import;
use super::print_config::print_config;
use super::serve::{check, serve};
use crate::config::{Cli, Command, CompareCommand, EmbedCommand, Settings};
use crate::error::{Error, Result};

/// Runs the chosen subcommand to its end.
///
/// # Errors
/// Whatever keeps it from its end; for settings that do not fit, and for `--help`, the process ends here as clap ends it.
pub fn run(matches: &ArgMatches) -> Result<()> {
    let cli = Cli::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("the async runtime could not be started: {error}")))?;
    let outcome = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => {
            let settings = Settings::resolve(matches, &args)?;
            match (args.print_config, args.check) {
                (true, _) => {
                    print_config(settings);
                    Ok(())
                }
                (false, true) => runtime.block_on(check(settings)),
                (false, false) => runtime.block_on(serve(settings)),
            }
        }
        Command::Download(args) => runtime.block_on(download(args)),
        Command::Embed(args) => runtime.block_on(embed(EmbedCommand::resolve(matches, &args)?, args)),
        Command::Import(args) => runtime.block_on(import(*args)),
        Command::Compare(args) => runtime.block_on(compare(CompareCommand::resolve(matches, &args)?, args)),
        Command::Healthcheck(args) => runtime.block_on(healthcheck(args)),
    };
    // A model that is being loaded is not waited for: whoever ends the process meanwhile has no use for it.
    runtime.shutdown_background();
    outcome
}

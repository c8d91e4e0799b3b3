//! `completions` and `man`: what shells and readers of manuals are told about the command line.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::output::print_whole;
use crate::config::Cli;
use crate::error::{Error, Result};

/// What the program is called where it is installed.
const NAME: &str = "text2vec-sidecar";

/// Prints what makes a shell complete commands, flags and their values.
pub(super) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    if shell == Shell::Bash {
        // The script names its states in two ways where a program's name has a hyphen (clap's issue 6421), and would complete
        // nothing behind a subcommand.
        let (wrong, right) = (NAME.replace('-', "__subcmd__"), NAME.replace('-', "__"));
        script = String::from_utf8_lossy(&script).replace(&wrong, &right).into_bytes();
    }
    print_whole(&script)
}

/// Prints the program's page, or writes it and those of the subcommands into a directory, which is made if need be.
///
/// # Errors
/// `Config` for a directory that cannot be written into.
pub(super) fn man(dir: Option<&Path>) -> Result<()> {
    // A page for `help` would only lead to the other pages.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(dir) = dir else {
        let mut text = Vec::new();
        let rendered = page(command).render(&mut text);
        rendered.map_err(|error| Error::internal(format!("the page could not be made: {error}")))?;
        return print_whole(&text);
    };
    let write = || {
        std::fs::create_dir_all(dir)?;
        let subcommands: Vec<Command> = command.get_subcommands().cloned().collect();
        subcommands
            .into_iter()
            .chain([command.clone()])
            .try_for_each(|command| page(command).generate_to(dir).map(drop))
    };
    write().map_err(|error: std::io::Error| {
        Error::config(format!("{} cannot be written into: {error}; see --dir", dir.display()))
    })
}

/// A command's page. The date is a blank: nothing would be read as if it were not there, and the version in its place.
fn page(command: Command) -> Man {
    Man::new(command).source(format!("{NAME} {}", env!("CARGO_PKG_VERSION"))).date(" ")
}

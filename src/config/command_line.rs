//! The command line, with what a file of settings adds to it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgMatches, Command, CommandFactory};

use super::args::Cli;
use super::file::SettingsFile;
use super::mistakes::{self, Spoken};

/// Exit code for a command line that cannot be understood, as clap has it.
const USAGE: i32 = 2;

/// What was given to the program: flags, `T2V_*` variables and a file of settings.
pub struct CommandLine {
    /// All of them together, as clap has read them.
    pub matches: ArgMatches,
    /// The file, with those of its settings that count.
    pub(super) file: Option<SettingsFile>,
}

/// Without values, some of which are secret.
impl std::fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandLine").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Why a command line is not taken.
#[derive(Debug)]
pub(super) enum Refusal {
    /// In one line.
    Said(String),
    /// As clap says it; also where somebody asks for help.
    Clap(clap::Error),
}

/// Reads the process's command line, its variables and its file of settings. For `--help`, and for what cannot be understood,
/// the process ends here.
pub fn command_line() -> CommandLine {
    CommandLine::read(std::env::args_os().collect()).unwrap_or_else(|refusal| match refusal {
        Refusal::Said(text) => {
            eprintln!("error: {text}");
            std::process::exit(USAGE)
        }
        Refusal::Clap(error) => error.exit(),
    })
}

impl CommandLine {
    /// Reads these words, the first of which is the program, beside this process's variables.
    pub(super) fn read(words: Vec<OsString>) -> Result<CommandLine, Refusal> {
        let root = Cli::command();
        let words = Words::new(&root, &words);
        if let Some(name) = words.misplaced(&root) {
            return Err(Refusal::Said(format!("--config goes behind the command: {name} --config …")));
        }
        let mut file = match words.file() {
            Some(path) => Some(SettingsFile::read(&path).map_err(Refusal::Said)?),
            None => None,
        };
        if let Some(file) = &mut file {
            file.keep(|name| words.leaves_open(name));
        }
        let root = words.with_variables_that_count(root.clone(), file.as_ref());
        match root.clone().try_get_matches_from(words.with(file.as_ref())) {
            Ok(matches) if file.is_none() && words.names_a_file(&matches) => Err(Refusal::Said(
                "--config is not UTF-8 text: write a blank, not a =, in front of its value".to_owned(),
            )),
            Ok(matches) => Ok(CommandLine { matches, file }),
            Err(error) => {
                let needing = || file.as_ref().and_then(|file| needing(&root, &words, file, &error));
                let given = Spoken { words: words.given, serves: words.serves(), file: file.as_ref() };
                let text = mistakes::explained(&error, &given).or_else(needing);
                Err(text.map_or(Refusal::Clap(error), Refusal::Said))
            }
        }
    }
}

/// A setting of the file needs another one, which nobody gives. Clap names that one alone: who needs it is found by leaving
/// one setting out after the other.
fn needing(root: &Command, words: &Words<'_>, file: &SettingsFile, error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return None;
    }
    let missing = error.get(ContextKind::InvalidArg);
    let needs = |name: &&str| {
        let mut others = file.clone();
        others.keep(|other| other != *name);
        match root.clone().try_get_matches_from(words.with(Some(&others))) {
            Ok(_) => true,
            Err(other) => other.get(ContextKind::InvalidArg) != missing,
        }
    };
    let name = file.names().find(needs)?;
    Some(format!("{}: {name} needs {} beside it", file.place(name)?, missing?))
}

/// The words of a command line, and the command that they are for.
struct Words<'a> {
    /// All of them.
    all: &'a [OsString],
    /// The command, where it takes a file of settings.
    command: Option<&'a Command>,
    /// How many words there are up to its name.
    head: usize,
    /// Those behind it, up to `--`.
    given: &'a [OsString],
}

impl<'a> Words<'a> {
    fn new(root: &'a Command, all: &'a [OsString]) -> Words<'a> {
        // `serve` may go without its name.
        let name = match all.get(1) {
            None => Some("serve"),
            Some(first) if first.as_encoded_bytes().starts_with(b"-") => Some("serve"),
            Some(first) => first.to_str(),
        };
        let head = if name.is_some_and(|name| all.get(1).is_some_and(|first| first == name)) { 2 } else { 1 };
        let head = head.min(all.len());
        let command =
            name.and_then(|name| root.find_subcommand(name)).filter(|command| argument(command, "config").is_some());
        let given = &all[head..];
        let end = given.iter().position(|word| word == "--").unwrap_or(given.len());
        Words { all, command, head, given: &given[..end] }
    }

    /// The command whose file of settings stands before its name.
    fn misplaced(&self, root: &Command) -> Option<&str> {
        let mut words = self.all.iter().skip(1).filter_map(|word| word.to_str());
        match words.next()? {
            "--config" => drop(words.next()),
            first if first.starts_with("--config=") => {}
            _ => return None,
        }
        words.next().filter(|word| root.find_subcommand(word).is_some())
    }

    /// The file of settings; none where somebody asks for help.
    fn file(&self) -> Option<PathBuf> {
        let asks = |word: &OsString| ["-h", "--help", "-V", "--version"].iter().any(|help| word == help);
        if self.command.is_none() || self.given.iter().any(asks) {
            return None;
        }
        let mut words = self.given.iter();
        while let Some(word) = words.next() {
            if word == "--config" {
                return words.next().map(PathBuf::from);
            }
            if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
                return Some(path.into());
            }
        }
        std::env::var_os("T2V_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Whether the command is `serve`.
    fn serves(&self) -> bool {
        self.command.is_some_and(|command| command.get_name() == "serve")
    }

    /// Whether clap has found a file of settings.
    fn names_a_file(&self, matches: &ArgMatches) -> bool {
        let Some(command) = self.command else { return false };
        let matches = matches.subcommand_matches(command.get_name()).unwrap_or(matches);
        matches.get_one::<PathBuf>("config").is_some()
    }

    /// Whether the command has this flag, and neither it nor its variable is given. A variable that is empty says nothing.
    fn leaves_open(&self, name: &str) -> bool {
        let Some(argument) = self.command.and_then(|command| argument(command, name)) else { return false };
        let variable = argument.get_env().and_then(std::env::var_os).filter(|value| !value.is_empty());
        variable.is_none() && !mistakes::on_the_command_line(self.given, name)
    }

    /// The command with the variables that count, as clap reads all it knows of: not those that are empty and whose flags are given
    /// or stand in the file.
    fn with_variables_that_count(&self, root: Command, file: Option<&SettingsFile>) -> Command {
        let is_given = |name: &str| {
            mistakes::on_the_command_line(self.given, name) || file.is_some_and(|file| file.place(name).is_some())
        };
        let is_empty = |argument: &Arg| {
            let value = argument.get_env().and_then(std::env::var_os);
            value.is_some_and(|value| value.is_empty()) && argument.get_long().is_some_and(is_given)
        };
        let mutated = |argument: Arg| if is_empty(&argument) { argument.env(Resettable::Reset) } else { argument };
        // Where a command is named, flags in front of its name are nobody's, and so are their variables.
        let root = match self.head {
            2 => root.mut_args(|argument| argument.env(Resettable::Reset)),
            _ => root.mut_args(mutated),
        };
        match self.command.map(Command::get_name) {
            Some(name) => root.mut_subcommand(name, |command| command.mut_args(mutated)),
            None => root,
        }
    }

    /// The words with a file's settings among them.
    fn with(&self, file: Option<&SettingsFile>) -> Vec<OsString> {
        let (head, rest) = self.all.split_at(self.head);
        head.iter().cloned().chain(file.into_iter().flat_map(SettingsFile::flags)).chain(rest.iter().cloned()).collect()
    }
}

fn argument<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| argument.get_long() == Some(name))
}

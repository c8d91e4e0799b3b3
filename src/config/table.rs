//! The table of settings: each value as it takes effect, and where it comes from. A line is noted where its value is resolved.
//! No secret is in it. It is shown as a file of settings, which comes to the same when it is read again.

use std::fmt::{self, Display};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory};

use super::args::Cli;
use super::command_line::CommandLine;
use super::file::{Kind, SettingsFile, settings_of_serve};
use super::secrets::without_secrets;

/// What stands for a value that is not told.
const HIDDEN: &str = "(hidden)";

/// Flags of URLs: shown without what is secret in them.
const URLS: [&str; 4] = ["upstream", "passage_upstream", "query_upstream", "self_urls"];

/// What stands for no value.
const NOTHING: &str = "-";

/// The name of a line that tells what cannot be honoured.
const WARNING: &str = "warning";

/// What stands above the settings.
const HEAD: &str = concat!(
    "# Settings of text2vec-sidecar ",
    env!("CARGO_PKG_VERSION"),
    ", each as it takes effect and with what decided it.\n",
    "# As a file: text2vec-sidecar --config FILE, or T2V_CONFIG=FILE. Flags and T2V_* variables go before it; any line may be\n",
    "# left out. Secrets, what has no value, and what was found out or follows from something else stand behind a #.\n\n"
);

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag, by its name.
    Flag(String),
    /// A variable, by its name: ours, the reference container's or the module's.
    Variable(String),
    /// A file of settings: its path and the line.
    File(String),
    /// Nobody said anything.
    Default,
    /// Something that was found, or that was said elsewhere.
    Because(&'static str),
}

impl Source {
    /// A variable of another program if it decided, else the default.
    pub(super) fn variable_if(decided: bool, name: &str) -> Source {
        if decided { Source::Variable(name.to_owned()) } else { Source::Default }
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(name) => write!(f, "--{name}"),
            Source::Variable(name) => f.write_str(name),
            Source::File(place) => f.write_str(place),
            Source::Default => f.write_str("default"),
            Source::Because(reason) => f.write_str(reason),
        }
    }
}

/// A setting as it takes effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its flag, without the dashes.
    pub name: String,
    /// Its value, for people.
    pub value: String,
    /// What decided.
    pub source: Source,
    /// Its value as a file of settings has it, if it is one that a file can have.
    pub written: String,
    /// Whether a file should say it: somebody has set it, or it is a default.
    pub is_set: bool,
}

impl Line {
    fn comment(name: &str, value: &str, source: Source) -> Line {
        Line { name: name.into(), value: value.into(), source, written: value.into(), is_set: false }
    }
}

/// The settings of a command, in the order of its flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(pub Vec<Line>);

impl Table {
    /// What decided a setting, by its flag's name.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.0.iter().find(|line| line.name == name).map(|line| &line.source)
    }

    /// Whether somebody says it, by its flag's name.
    pub fn is_given(&self, name: &str) -> bool {
        !matches!(self.source(name), Some(Source::Default | Source::Because(_)) | None)
    }

    /// What was found out in place of what is there, by the flag's name. What a variable decided a file should say, too.
    pub fn found(&mut self, name: &str, values: &[String], source: Source) {
        let root = Cli::command();
        let kind = settings_of_serve(&root).find(|argument| argument.get_long() == Some(name)).map(Kind::of);
        if let Some(line) = self.0.iter_mut().find(|line| line.name == name) {
            *line = Line::comment(name, &values.join(","), source);
            // Values of several models are none of the flag's.
            if let (Some(kind), [_]) = (kind, values) {
                line.written = kind.written(values);
                line.is_set = matches!(line.source, Source::Variable(_));
            }
        }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        self.0.iter().try_for_each(|Line { name, value, source, written, is_set }| {
            let text = match is_set {
                true => format!("{name:<24} = {written}"),
                false if name == WARNING => format!("# {name}: {value}"),
                false => format!("# {name:<22} = {written}"),
            };
            let source = source.to_string();
            let line = if source.is_empty() { text } else { format!("{text:<72}  # {source}") };
            // A comment ends with its line, and what a line is made of may have more than one.
            writeln!(f, "{}", line.replace(char::is_control, " "))
        })
    }
}

/// What was given to a command, and the table of what became of it.
pub(super) struct Given<'a> {
    matches: &'a ArgMatches,
    file: Option<&'a SettingsFile>,
    arguments: Vec<Arg>,
    lines: Vec<(usize, Line)>,
}

impl<'a> Given<'a> {
    /// What was given to this subcommand; `serve` may go without its name.
    pub(super) fn new(line: &'a CommandLine, subcommand: &str) -> Given<'a> {
        let root = Cli::command();
        let arguments = root.find_subcommand(subcommand).into_iter().flat_map(Command::get_arguments).cloned();
        let matches = line.matches.subcommand_matches(subcommand).unwrap_or(&line.matches);
        Given { matches, file: line.file.as_ref(), arguments: arguments.collect(), lines: Vec::new() }
    }

    /// A value that a flag, its variable or its default has.
    pub(super) fn value<T: Display>(&mut self, id: &str, value: T) -> T {
        let source = self.source(id);
        self.note(id, &value.to_string(), source);
        value
    }

    /// The flag's value, else that of something else, with its source.
    pub(super) fn or<T: Display>(&mut self, id: &str, flag: Option<T>, otherwise: (T, Source)) -> T {
        match flag {
            Some(value) => self.value(id, value),
            None => {
                let (value, source) = otherwise;
                self.note(id, &value.to_string(), source);
                value
            }
        }
    }

    /// What a flag has as it was written, where it stays a text.
    pub(super) fn text(&mut self, id: &str) {
        let raw = self.matches.get_raw(id).into_iter().flatten();
        let values: Vec<String> =
            raw.map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty()).collect();
        let source = self.source(id);
        self.push(id, &values, source, true);
    }

    /// Where a flag's value comes from, by its name without the dashes.
    pub(super) fn source_of_flag(&self, long: &str) -> Source {
        let argument = self.arguments.iter().find(|argument| argument.get_long() == Some(long));
        argument.map_or(Source::Default, |argument| self.source(argument.get_id().as_str()))
    }

    /// Where a flag's value comes from.
    pub(super) fn source(&self, id: &str) -> Source {
        let argument = self.argument(id);
        let long = argument.and_then(|argument| argument.get_long()).unwrap_or(id);
        match self.matches.value_source(id) {
            // What a file says is given to clap as flags.
            Some(ValueSource::CommandLine) => match self.file.and_then(|file| file.place(long)) {
                Some(place) => Source::File(place),
                None => Source::Flag(long.to_owned()),
            },
            Some(ValueSource::EnvVariable) => {
                let variable = argument.and_then(|argument| argument.get_env()).unwrap_or_default();
                Source::Variable(variable.to_string_lossy().into_owned())
            }
            _ => Source::Default,
        }
    }

    /// Notes what holds for a flag, because somebody set it or by default.
    pub(super) fn note(&mut self, id: &str, value: &str, source: Source) {
        self.push(id, &[value.to_owned()], source, true);
    }

    /// Notes what holds where a flag is not given: it was found out, or follows from something else. A file that said so would
    /// pin it, or contradict what it follows from.
    pub(super) fn note_found(&mut self, id: &str, value: &str, source: Source) {
        self.push(id, &[value.to_owned()], source, false);
    }

    fn push(&mut self, id: &str, values: &[String], source: Source, is_setting: bool) {
        let place = self.arguments.iter().position(|argument| argument.get_id() == id);
        let argument = place.map(|place| &self.arguments[place]);
        let is_secret = argument.is_some_and(Arg::is_hide_env_values_set) && !URLS.contains(&id);
        let whole = values.join(",");
        let value = match &*whole {
            "" => NOTHING.to_owned(),
            _ if is_secret => HIDDEN.to_owned(),
            value => without_secrets(value),
        };
        let name = argument.and_then(|argument| argument.get_long()).unwrap_or(id).to_owned();
        let line = match argument.filter(|_| value == whole) {
            Some(argument) => {
                Line { name, value, source, written: Kind::of(argument).written(values), is_set: is_setting }
            }
            None => Line::comment(&name, &value, source),
        };
        self.lines.push((place.unwrap_or(usize::MAX), line));
    }

    /// Notes a secret that has no flag.
    pub(super) fn note_secret(&mut self, name: &str, variable: &str) {
        self.lines.push((usize::MAX, Line::comment(name, HIDDEN, Source::Variable(variable.into()))));
    }

    /// Notes what cannot be honoured.
    pub(super) fn note_warning(&mut self, warning: &str) {
        self.lines.push((usize::MAX, Line::comment(WARNING, warning, Source::Because(""))));
    }

    /// The lines, in the order of the flags.
    pub(super) fn table(mut self) -> Table {
        self.lines.sort_by_key(|(place, _)| *place);
        Table(self.lines.into_iter().map(|(_, line)| line).collect())
    }

    fn argument(&self, id: &str) -> Option<&Arg> {
        self.arguments.iter().find(|argument| argument.get_id() == id)
    }
}

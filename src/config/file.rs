//! A file of settings (`--config`): TOML, each flag by its name without the dashes. Its values are given to the command line as
//! if they were flags ([`super::command_line`]), so that whatever holds for a flag holds for them.

use std::any::TypeId;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, CommandFactory};
use toml::de::{DeInteger, DeTable, DeValue};

use super::args::Cli;
use crate::small_file;

/// The largest file of settings, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Flags that say what to do, not how: no file has them.
const ACTIONS: [&str; 5] = ["help", "version", "config", "print-config", "check"];

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number.
    Number,
    /// `true` or `false`.
    Switch,
    /// A text.
    Text,
    /// A text, or several.
    Texts,
}

impl Kind {
    /// What this flag takes.
    pub(super) fn of(argument: &Arg) -> Kind {
        let parsed = argument.get_value_parser().type_id();
        if matches!(argument.get_action(), ArgAction::Append) {
            Kind::Texts
        } else if parsed == ValueParser::bool().type_id() {
            Kind::Switch
        } else if parsed == TypeId::of::<u64>() || parsed == TypeId::of::<usize>() {
            Kind::Number
        } else {
            Kind::Text
        }
    }

    /// A value of this kind, as a flag takes it; several where several are given. `None`: it is of another kind.
    fn read(self, value: &DeValue<'_>) -> Option<Vec<String>> {
        match (self, value) {
            (Kind::Number, DeValue::Integer(number)) => Some(vec![whole(number)]),
            (Kind::Switch, DeValue::Boolean(on)) => Some(vec![on.to_string()]),
            (Kind::Text | Kind::Texts, DeValue::String(text)) => Some(vec![text.to_string()]),
            (Kind::Texts, DeValue::Array(texts)) => {
                texts.iter().map(|text| text.get_ref().as_str().map(str::to_owned)).collect()
            }
            _ => None,
        }
    }

    /// These values as a file has them.
    pub(super) fn written(self, values: &[String]) -> String {
        match (self, values) {
            (Kind::Number | Kind::Switch, [value]) => value.clone(),
            (_, [value]) => quoted(value),
            (_, values) => format!("[{}]", values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ")),
        }
    }

    /// What to write.
    fn remedy(self, name: &str) -> String {
        match self {
            Kind::Number => "use a whole number, without quotes and without a unit".to_owned(),
            Kind::Switch => "use true or false, without quotes".to_owned(),
            Kind::Text => {
                "use one text in quotes; where several are taken, they stand in it with commas between".to_owned()
            }
            Kind::Texts => format!("use a text in quotes, or several in brackets: {name} = [\"a\", \"b\"]"),
        }
    }
}

/// A setting of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// Its flag, without the dashes.
    name: String,
    /// From 1 on.
    line: usize,
    /// As the flag would be given; several where the flag is given several times.
    values: Vec<String>,
}

/// A file of settings, as far as its settings count.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SettingsFile {
    path: PathBuf,
    settings: Vec<Setting>,
}

/// Without values, some of which are secret.
impl std::fmt::Debug for SettingsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.settings.iter().map(|setting| &setting.name).collect();
        f.debug_struct("SettingsFile").field("path", &self.path).field("settings", &names).finish()
    }
}

impl SettingsFile {
    /// Reads a file. Each of its keys is a setting of `serve`; those that the command at hand does not take are for
    /// [`SettingsFile::keep`] to leave out.
    ///
    /// # Errors
    /// What is wrong, in one line that names the file and, as far as there is one, the line and the key. No value is in it.
    pub(super) fn read(path: &Path) -> Result<SettingsFile, String> {
        let shown = path.display();
        let unreadable =
            |error: std::io::Error| format!("{shown} cannot be read: {error}; --config or T2V_CONFIG names it");
        let too_large = || {
            format!("{shown} has more than {MAX_BYTES} bytes, which is no file of settings: see --config or T2V_CONFIG")
        };
        let bytes = small_file::read_up_to(path, MAX_BYTES).map_err(unreadable)?.ok_or_else(too_large)?;
        let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8 text: save it as that"))?;
        SettingsFile::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<SettingsFile, String> {
        let line = |at: usize| 1 + text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count();
        let place = |at: usize| format!("{}:{}", path.display(), line(at));
        // The error's whole text would quote the file's line.
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            format!(
                "{}: {}: a setting stands on a line, name = value, and a text in quotes",
                place(at),
                error.message()
            )
        })?;
        let root = Cli::command();
        let mut settings = Vec::new();
        for (key, value) in table.get_ref() {
            let (name, at) = (key.get_ref().escape_debug().to_string(), key.span().start);
            let Some(argument) = settings_of_serve(&root).find(|argument| argument.get_long() == Some(&*name)) else {
                return Err(format!("{}: {}", place(at), unknown(&name, value.get_ref())));
            };
            let kind = Kind::of(argument);
            let values = kind.read(value.get_ref()).ok_or_else(|| {
                format!("{}: {name} is {}: {}", place(at), called(value.get_ref()), kind.remedy(&name))
            })?;
            settings.push(Setting { name, line: line(at), values });
        }
        settings.sort_by_key(|setting| setting.line);
        Ok(SettingsFile { path: path.to_owned(), settings })
    }

    /// Leaves out all settings but these, by their names.
    pub(super) fn keep(&mut self, counts: impl Fn(&str) -> bool) {
        self.settings.retain(|setting| counts(&setting.name));
    }

    /// The names of its settings, in their order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().map(|setting| &*setting.name)
    }

    /// Where a setting stands, as `config.toml:3`; `None`: not here.
    pub(super) fn place(&self, name: &str) -> Option<String> {
        let setting = self.settings.iter().find(|setting| setting.name == name)?;
        Some(format!("{}:{}", self.path.display(), setting.line))
    }

    /// Its settings as flags.
    pub(super) fn flags(&self) -> impl Iterator<Item = OsString> {
        let each = |setting: &'_ Setting| {
            setting.values.iter().map(|value| format!("--{}={value}", setting.name).into()).collect::<Vec<OsString>>()
        };
        self.settings.iter().flat_map(each)
    }
}

/// The flags of `serve` that are settings, in order.
pub(super) fn settings_of_serve(root: &Command) -> impl Iterator<Item = &Arg> {
    let arguments = root.find_subcommand("serve").into_iter().flat_map(Command::get_arguments);
    arguments.filter(|argument| argument.get_long().is_some_and(|long| !ACTIONS.contains(&long)))
}

/// What is wrong with a key that no setting has.
fn unknown(key: &str, value: &DeValue<'_>) -> String {
    if ACTIONS.contains(&key) {
        return format!("'{key}' is no setting, but says what to do: give it as the flag --{key}");
    }
    if matches!(value, DeValue::Table(_)) {
        return format!("'{key}' is a table: settings stand outside of tables, each with the whole name of its flag");
    }
    match similar(key) {
        Some(name) => format!("'{key}' is no setting: did you mean {name}?"),
        None => format!("'{key}' is no setting: see serve --help for those there are"),
    }
}

/// The setting whose name is nearest: written as its variable is, or by what clap finds for a mistyped flag.
fn similar(key: &str) -> Option<String> {
    let flag = key.to_lowercase().replace('_', "-");
    let flag = flag.strip_prefix("t2v-").unwrap_or(&flag);
    if settings_of_serve(&Cli::command()).any(|argument| argument.get_long() == Some(flag)) {
        return Some(flag.to_owned());
    }
    let error = Cli::command().try_get_matches_from(["text2vec-sidecar", "serve", &format!("--{key}")]).err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(flag) => {
            let name = flag.strip_prefix("--")?;
            (!ACTIONS.contains(&name)).then(|| name.to_owned())
        }
        _ => None,
    }
}

/// What a value is, for people.
fn called(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A whole number as a flag takes it, whatever its base; one beyond all bounds stays as it is written.
fn whole(number: &DeInteger<'_>) -> String {
    i128::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.to_string(), |whole| whole.to_string())
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted += &format!("\\u{:04X}", c as u32),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SettingsFile, String> {
        SettingsFile::parse(Path::new("config.toml"), text)
    }

    fn flags(text: &str) -> Vec<String> {
        let file = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        file.flags().map(|flag| flag.into_string().expect("UTF-8")).collect()
    }

    #[test]
    fn settings_become_flags_in_their_order() {
        let text =
            "# a comment\nthreads = 2\nmodel = [\"a=x\", 'b=y']  # two\n\nqueries-first = false\nprofile = \"onnx\"\n";
        assert_eq!(
            flags(text),
            ["--threads=2", "--model=a=x", "--model=b=y", "--queries-first=false", "--profile=onnx"]
        );
        assert_eq!(read(text).expect("a file").place("model").as_deref(), Some("config.toml:3"));
        assert_eq!(read(text).expect("a file").place("listen"), None);
        assert_eq!(
            flags("max-wait = 1_000\nmax-texts = 0x10\nthreads = -1"),
            ["--max-wait=1000", "--max-texts=16", "--threads=-1"]
        );
        assert_eq!(flags("\u{feff}threads = 2\r\nmodel = []\r\n"), ["--threads=2"], "as a Windows editor has it");
        assert_eq!(flags(""), [""; 0]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_its_line_and_key() {
        for (text, words) in [
            ("\nmax-txts = 5", "config.toml:2: 'max-txts' is no setting: did you mean max-texts?"),
            ("max_texts = 5", "config.toml:1: 'max_texts' is no setting: did you mean max-texts?"),
            ("qqqq = 5", "config.toml:1: 'qqqq' is no setting: see serve --help"),
            ("\"a\\nb\" = 5", "config.toml:1: 'a\\nb' is no setting"),
            ("\"\" = 5", "config.toml:1: '' is no setting: see serve --help"),
            ("task = \"query\"", "config.toml:1: 'task' is no setting"),
            ("check = true", "config.toml:1: 'check' is no setting, but says what to do: give it as the flag --check"),
            ("config = \"x\"", "give it as the flag --config"),
            ("chekc = true", "config.toml:1: 'chekc' is no setting: see serve --help"),
            ("[serve]\nthreads = 2", "config.toml:1: 'serve' is a table: settings stand outside of tables"),
            ("cache.bytes = 2", "config.toml:1: 'cache' is a table"),
            ("THREADS = 2", "config.toml:1: 'THREADS' is no setting: did you mean threads?"),
            ("T2V_MAX_WAIT = 2", "config.toml:1: 'T2V_MAX_WAIT' is no setting: did you mean max-wait?"),
            ("threads = \"2\"", "config.toml:1: threads is a text: use a whole number, without quotes"),
            ("max-wait = 1.5", "config.toml:1: max-wait is a number with a fraction: use a whole number"),
            ("threads = { a = 2 }", "config.toml:1: threads is a table: use a whole number"),
            ("queries-first = 1", "config.toml:1: queries-first is a number: use true or false"),
            ("direct-tokenize = \"true\"", "direct-tokenize is a text: use true or false, without quotes"),
            ("revision = 2024-01-01", "config.toml:1: revision is a date: use one text in quotes"),
            ("listen = 8080", "config.toml:1: listen is a number: use one text in quotes"),
            (
                "allow-upstream = [\"a\", \"b\"]",
                "is a list: use one text in quotes; where several are taken, they stand in it",
            ),
            ("model = [1]", "config.toml:1: model is a list: use a text in quotes, or several in brackets"),
            (
                "model = true",
                "model is true or false: use a text in quotes, or several in brackets: model = [\"a\", \"b\"]",
            ),
            ("threads = 2\nthreads = 3", "config.toml:2: duplicate key: a setting stands on a line"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(words) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn no_error_tells_a_value() {
        for text in [
            "upstream-tokens = a=verysecret",
            "upstream-tokens = \"a=verysecret",
            "upstream-tokens = \"a=verysecret\\q\"",
            "upstream-tokens = 'a=verysecret' x",
            "upstream-tokens = [\"a=verysecret\"]",
            "upstream-tokens = {a = \"verysecret\"}",
            "upstream-tokens = \"a=verysecret\"\nupstream-tokens = \"b=verysecret\"",
        ] {
            let error = read(text).expect_err(text);
            assert!(error.starts_with("config.toml:") && !error.contains("verysecret"), "{text}: {error}");
        }
        let file = read("upstream-tokens = \"a=verysecret\"").expect("a file");
        assert!(!format!("{file:?}").contains("verysecret"));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_file_holds_is_read_or_refused_in_a_line(
            text in "(threads|model| = |[a-z\"\\[\\]{}=.,#\\\\'\n\r\u{0}é 0-9-]){0,40}",
        ) {
            if let Err(error) = read(&text) {
                proptest::prop_assert!(error.starts_with("config.toml:") && !error.contains(['\n', '\r']), "{error}");
            }
        }
    }

    #[test]
    fn what_is_nested_without_end_is_refused() {
        for opening in ["[", "{a=", "{\"a\".b="] {
            let error = read(&format!("model = {}", opening.repeat(200_000))).expect_err("refused");
            assert!(error.starts_with("config.toml:1: ") && error.len() < 200, "{error}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["", "a", "a\"b\\c\nd\te\u{7f}\u{0}é漢🦀", "C:\\models", "'", "#", "\\u0041"] {
            let written = Kind::Text.written(&[text.to_owned()]);
            assert_eq!(flags(&format!("revision = {written}")), [format!("--revision={text}")], "{written}");
            let two = Kind::Texts.written(&[text.to_owned(), "b".to_owned()]);
            assert_eq!(flags(&format!("model = {two}")), [format!("--model={text}"), "--model=b".to_owned()], "{two}");
        }
    }

    #[test]
    fn every_setting_has_a_kind_that_fits() {
        let root = Cli::command();
        let kind =
            |name: &str| settings_of_serve(&root).find(|argument| argument.get_long() == Some(name)).map(Kind::of);
        for (name, expected) in [
            ("model", Kind::Texts),
            ("profile", Kind::Texts),
            ("upstream", Kind::Texts),
            ("threads", Kind::Number),
            ("max-wait", Kind::Number),
            ("cache-bytes", Kind::Number),
            ("upstream-wait", Kind::Switch),
            ("surface-normalize", Kind::Switch),
            ("listen", Kind::Text),
            ("device", Kind::Text),
            ("tls-cert", Kind::Text),
        ] {
            assert_eq!(kind(name), Some(expected), "{name}");
        }
        assert_eq!(kind("print-config"), None);
    }

    #[test]
    fn files_that_are_none_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let (large, binary) = (dir.path().join("large"), dir.path().join("binary"));
        std::fs::write(&large, "#".repeat(MAX_BYTES as usize)).expect("write");
        assert!(SettingsFile::read(&large).is_ok());
        std::fs::write(&large, "#".repeat(MAX_BYTES as usize + 1)).expect("write");
        std::fs::write(&binary, b"threads = \xff").expect("write");
        for (path, words) in [
            (&*large, "large has more than 1048576 bytes"),
            (&*binary, "binary is not UTF-8 text"),
            (dir.path(), "cannot be read: "),
            (&*dir.path().join("none"), "none cannot be read: No such file"),
        ] {
            let error = SettingsFile::read(path).expect_err(words);
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
    }
}

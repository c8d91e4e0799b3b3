//! What is written is none of what is read.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::options::Options;
use crate::source::is_standard_input;

/// What two paths have in common that lead to one file.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// Device and number of a file that is there: the same by every name, links included.
    #[cfg(unix)]
    Number(u64, u64),
    /// The path, where there is no such number or no file yet.
    Path(PathBuf),
}

/// Refuses to write the file of failed rows or of objects over the other one, or over anything that is read.
pub(crate) fn refuse_to_write_over_what_is_read(options: &Options) -> Result<()> {
    let output = options.output.as_deref().filter(|path| path.as_os_str() != "-");
    let source = match is_standard_input(&options.source.path) {
        // It may come from a file.
        true => Path::new("/dev/stdin"),
        false => &options.source.path,
    };
    let read = [
        ("the file that is read", Some(source)),
        ("--class-file", options.class_file.as_deref()),
        ("--ca", options.ca.as_deref()),
    ];
    let written = [("--failed", options.failed.as_deref()), ("--output", output)];
    for (index, (flag, path)) in written.iter().enumerate() {
        let Some(path) = path.and_then(identity) else { continue };
        let others = read.iter().chain(&written[..index]);
        let same = others.filter(|(_, other)| other.and_then(identity).as_ref() == Some(&path));
        if let Some((other, _)) = same.into_iter().next() {
            return Err(Error::new(format!("{flag} is {other} too: name another file")));
        }
    }
    Ok(())
}

/// `None`: no file that could lose anything, such as a terminal or `/dev/null`.
fn identity(path: &Path) -> Option<Identity> {
    match std::fs::metadata(path) {
        Ok(metadata) => metadata.is_file().then(|| of_file(path, &metadata)),
        Err(_) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
            Some(Identity::Path(folder.join(path.file_name()?)))
        }
    }
}

#[cfg(unix)]
fn of_file(_: &Path, metadata: &std::fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    Identity::Number(metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn of_file(path: &Path, _: &std::fs::Metadata) -> Identity {
    Identity::Path(std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::options;

    #[test]
    fn nothing_is_written_over_what_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["rows.jsonl", "class.json", "ca.pem", "other"] {
            std::fs::write(at(name), "x").expect("written");
        }
        std::fs::hard_link(at("rows.jsonl"), at("hard")).expect("linked");
        let check = |output: Option<PathBuf>, failed: Option<PathBuf>| {
            let mut options = options();
            options.source.path = at("rows.jsonl");
            (options.class_file, options.ca) = (Some(at("class.json")), Some(at("ca.pem")));
            (options.output, options.failed) = (output, failed);
            refuse_to_write_over_what_is_read(&options).map_err(|error| error.message().to_owned())
        };
        for (path, said) in [
            ("rows.jsonl", "the file that is read"),
            ("hard", "the file that is read"),
            ("class.json", "--class-file"),
            ("./ca.pem", "--ca"),
        ] {
            let path = at(path);
            let error = check(Some(path.clone()), None).expect_err("refused");
            assert!(error.starts_with("--output is ") && error.contains(said), "{error}");
            let error = check(None, Some(path)).expect_err("refused");
            assert!(error.starts_with("--failed is ") && error.contains(said), "{error}");
        }
        for name in ["other", "new"] {
            let error = check(Some(at(name)), Some(folder.path().join(".").join(name))).expect_err("refused");
            assert_eq!(error, "--output is --failed too: name another file");
        }
        assert_eq!(check(Some(at("other")), Some(at("new"))), Ok(()));
        assert_eq!(check(Some("-".into()), Some("/dev/null".into())), Ok(()));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("class.json"), at("soft")).expect("linked");
            assert!(check(Some(at("soft")), None).expect_err("refused").contains("--class-file"));
            assert_eq!(check(Some("/dev/null".into()), Some("/dev/null".into())), Ok(()));
        }
    }
}

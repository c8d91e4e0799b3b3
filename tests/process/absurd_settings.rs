//! Every number that a flag takes, at its most absurd: it is refused by its flag's name, or the server runs with it.

use crate::support;

use std::process::Stdio;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, CommandFactory, Parser};
use support::process::{Connection, Process};
use text2vec_sidecar::config::Cli;

const ABSURD: &[&str] = &[
    "0",
    "-1",
    "-9223372036854775809",
    "NaN",
    "inf",
    "1e400",
    "1.5",
    "18446744073709551615",
    "18446744073709551616",
    "",
];

/// The flags of `serve` that take a number, by their names.
fn numeric() -> Vec<String> {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("serve");
    let takes_a_number = |argument: &&Arg| {
        let kind = argument.get_value_parser().type_id();
        [ValueParser::from(clap::value_parser!(u64)).type_id(), ValueParser::from(clap::value_parser!(u32)).type_id()]
            .contains(&kind)
            || kind == std::any::TypeId::of::<usize>()
            || kind == std::any::TypeId::of::<f64>()
    };
    serve.get_arguments().filter(takes_a_number).filter_map(|argument| Some(argument.get_long()?.to_owned())).collect()
}

fn accepted(flags: &[String]) -> bool {
    Cli::try_parse_from(["text2vec-sidecar", "serve"].into_iter().chain(flags.iter().map(String::as_str))).is_ok()
}

/// Exit code and text of a server that refuses to start; `None` where it does not end within a minute.
fn refusal(flags: &[String]) -> (Option<i32>, String) {
    let output = Process::command()
        .args(["--model", "./no/such/model", "--listen", "127.0.0.1:0"])
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Starts with these flags, and asks for its health and for a vector.
async fn runs(flags: &[String]) {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Process::start(&flags, &[]).await;
    let mut connection = Connection::open(server.address).await.expect("a connection");
    let answer = tokio::time::timeout(Duration::from_secs(20), connection.post(r#"{"text": "a"}"#)).await;
    let answer = answer.unwrap_or_else(|_| panic!("{flags:?}: no answer")).expect("an answer");
    let status = answer.status().as_u16();
    assert!([200, 413, 429, 431].contains(&status), "{flags:?}: {status} {:?}", answer.body());
    server.terminate();
    let ended = server.ended(Duration::from_secs(20)).await.unwrap_or_else(|| panic!("{flags:?}: no end"));
    assert_eq!(ended.code(), Some(0), "{flags:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_numbers_are_refused_by_their_flag_or_served_with() {
    let flags = numeric();
    assert!(flags.len() >= 19, "{flags:?}");
    let mut served = 0;
    for flag in &flags {
        for value in ABSURD {
            let given = [format!("--{flag}={value}")];
            if accepted(&given) {
                runs(&given).await;
                served += 1;
                continue;
            }
            let (code, text) = refusal(&given);
            assert_eq!((code, text.trim_end().lines().count()), (Some(2), 1), "{given:?}: {text}");
            assert!(text.contains(&format!("--{flag} is ")) && text.contains("use a "), "{given:?}: {text}");
        }
    }
    println!("{} flags, {} values each: {served} are served with", flags.len(), ABSURD.len());
}

/// The least and the most that each flag takes, all together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_runs_at_the_bounds_of_all_its_flags() {
    let (mut least, mut most) = (Vec::new(), Vec::new());
    for flag in numeric() {
        let (_, text) = refusal(&[format!("--{flag}=18446744073709551615")]);
        let bounds = text.split_once("a number from ").and_then(|(_, rest)| rest.trim().split_once(" to "));
        let (from, to) = bounds.unwrap_or_else(|| panic!("--{flag} has no bounds: {text}"));
        let (from, to): (u64, u64) = (from.parse().expect("a number"), to.parse().expect("a number"));
        for value in [from, to] {
            assert!(accepted(&[format!("--{flag}={value}")]), "--{flag}={value}");
        }
        assert!(!accepted(&[format!("--{flag}={}", to + 1)]), "--{flag}");
        least.push(format!("--{flag}={from}"));
        // A server that takes a year to stop is right, and a thousand threads are many for a test.
        if !["drain-delay", "threads"].contains(&flag.as_str()) {
            most.push(format!("--{flag}={to}"));
        }
    }
    runs(&most).await;
    runs(&least).await;
}

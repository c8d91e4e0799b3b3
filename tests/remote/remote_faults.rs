//! What callers see of upstreams that misbehave: the table in `src/backend/remote/mod.rs`, row by row, over real sockets.

use crate::support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::upstream::{Act, Arrived, Names, Upstream, container, ok, status};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::remote::{RemoteOptions, startup};
use text2vec_sidecar::cache::{CacheOptions, Cached};
use text2vec_sidecar::contract::call::Call;

/// A deadline that hanging upstreams are measured against.
const PATIENCE: Duration = Duration::from_secs(4);

const GOOD: &str = r#"{"vector":[1,2,3]}"#;

/// What an upstream does with the `number`th request for a vector after it was connected to.
fn behaviour(fault: &str, number: usize) -> Option<Act> {
    let with = |code: u16, headers: &str, body: &str| Act::Answer(code, headers.to_owned(), body.to_owned());
    Some(match fault {
        "answers slowly, in time" => Act::Later(Duration::from_millis(300), Box::new(ok(GOOD))),
        "never answers" => Act::Hang,
        "closes without an answer" => Act::Close,
        "breaks off in mid-answer" => Act::BreakOff,
        "500, plain text" => status(500, "Internal Server Error"),
        "500, JSON error" => status(500, r#"{"error":"kaboom"}"#),
        "502, HTML" => status(502, "<html><body>Bad Gateway</body></html>"),
        "503 with Retry-After, then well" if number == 0 => with(503, "retry-after: 0\r\n", r#"{"error":"busy"}"#),
        "429 with Retry-After, then well" if number == 0 => with(429, "retry-after: 0\r\n", r#"{"error":"busy"}"#),
        "503 with Retry-After, then well" | "429 with Retry-After, then well" => ok(GOOD),
        "429 without Retry-After" => status(429, r#"{"error":"busy"}"#),
        "422" => status(422, r#"{"detail":[{"msg":"Field required"}]}"#),
        "413 for one text" => status(413, r#"{"error":"too long"}"#),
        "401" => status(401, r#"{"error":"Unauthorized"}"#),
        "307" => with(307, "location: http://127.0.0.1:1/\r\n", "{}"),
        "200 without a vector" => ok(r#"{"text":"x"}"#),
        "200 with an empty vector" => ok(r#"{"vector":[]}"#),
        "200 with NaN" => ok(r#"{"vector":[1,NaN,3]}"#),
        "200 with a number beyond float32" => ok(r#"{"vector":[1,1e39,3]}"#),
        "200 with another length than before" => ok(r#"{"vector":[1,2]}"#),
        "200, JSON cut short" => ok(r#"{"vector":[1,2"#),
        "fails every other time (502)" => {
            if number.is_multiple_of(2) {
                status(502, "x")
            } else {
                ok(GOOD)
            }
        }
        "DNS with one dead address" => ok(GOOD),
        _ => return None,
    })
}

/// A row: fault, tried again, what the caller sees, a text within it.
struct Row(Vec<String>);

fn rows() -> Vec<Row> {
    let source =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/backend/remote/mod.rs")).expect("source");
    let table = source.split("//! | the upstream | tried again |").nth(1).expect("the table");
    let lines = table.lines().skip(2).take_while(|line| line.starts_with("//! |"));
    let cells = |line: &str| {
        line["//! |".len()..].trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    lines.map(|line| Row(cells(line))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_see_what_the_table_says() {
    let rows = rows();
    assert!(rows.len() >= 23, "only {} rows", rows.len());
    let results = futures_util::future::join_all(rows.iter().map(check)).await;
    let wrong: Vec<_> = results.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs one row; `Some`: how it was different.
async fn check(Row(cells): &Row) -> Option<String> {
    let [fault, again, sees, text] = cells.as_slice() else { panic!("a row of {} cells: {cells:?}", cells.len()) };
    let begun = Arc::new(AtomicUsize::new(0));
    let script = {
        let (fault, begun) = (fault.clone(), begun.clone());
        move |arrived: &Arrived| match begun.load(Ordering::SeqCst) {
            // While it is connected to, it is well.
            0 => container(arrived),
            _ if arrived.path != "/vectors" => container(arrived),
            before => behaviour(&fault, arrived.number - before).expect("a fault this test knows"),
        }
    };
    let mut upstream = Some(Upstream::start(script).await);
    let port = upstream.as_ref().expect("running").address.port();
    let names = Names::default();
    // Nobody listens at the second address.
    let both = fault == "DNS with one dead address";
    names.set("up.example", if both { &["127.0.0.1", "127.0.0.77"] } else { &["127.0.0.1"] });
    let options = RemoteOptions {
        resolver: Arc::new(names),
        attempt_timeout: Duration::from_secs(20),
        ..RemoteOptions::default()
    };
    let url = format!("t2v+http://up.example:{port}");
    let remote =
        startup::connect(Some(&url), Some(&url), false, &options).await.expect("connected").passage.expect("one");
    let cached = Cached::around(remote, CacheOptions::default()).expect("a cache");
    let before = upstream.as_ref().expect("running").requests().len();
    begun.store(before, Ordering::SeqCst);
    if fault == "cannot be reached" {
        upstream = None;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let started = Instant::now();
    let call = Call { deadline: Some(started + PATIENCE), ..Call::passage("a text") };
    let answer = cached.embed(call).await.and_then(|mut results| results.pop().expect("a result"));
    let took = started.elapsed();
    let seen = match &answer {
        Ok(_) => "the vector".to_owned(),
        Err(error) => format!("{} {}", error.kind().meaning().label, error.kind().meaning().http_status),
    };
    let said = answer.as_ref().err().map(|error| error.message().to_owned()).unwrap_or_default();
    let wanted_text = text.trim_matches('`');
    let mut wrong = Vec::new();
    if took > PATIENCE + Duration::from_secs(3) {
        wrong.push(format!("took {took:?}"));
    }
    if seen != *sees || !said.contains(wanted_text) {
        wrong.push(format!("the caller saw {seen}: {said}"));
    }
    if answer.is_err() && !said.contains("up.example") {
        wrong.push(format!("the upstream is not named: {said}"));
    }
    if let Some(upstream) = &upstream {
        let asked = upstream.requests().len() - before;
        let expected = match (again.as_str(), answer.is_ok()) {
            ("no", _) => 1..=1,
            ("once", _) => 2..=2,
            ("yes", true) => 1..=2,
            ("yes", false) => 3..=3,
            other => panic!("{other:?}"),
        };
        if !expected.contains(&asked) {
            wrong.push(format!("asked {asked} times, not {expected:?}"));
        }
    }
    // Errors are not kept, vectors are.
    let entries = cached.stats().entries;
    if entries != u64::from(answer.is_ok()) {
        wrong.push(format!("{entries} entries in the cache"));
    }
    (!wrong.is_empty()).then(|| format!("{fault}: {}", wrong.join("; ")))
}

/// Retries never double the load, however many requests fail.
#[tokio::test(flavor = "multi_thread")]
async fn retries_come_from_a_budget() {
    let upstream = Upstream::start(|arrived| match arrived.path.as_str() {
        "/vectors" => status(503, r#"{"error":"busy"}"#),
        _ => container(arrived),
    })
    .await;
    let options = RemoteOptions { concurrency: 16, ..RemoteOptions::default() };
    let url = format!("t2v+{}", upstream.url());
    let remote =
        startup::connect(Some(&url), Some(&url), false, &options).await.expect("connected").passage.expect("one");
    let before = upstream.count("/vectors");
    let call = Call::passages((0..200).map(|i| i.to_string()));
    let error = remote.embed(call).await.expect_err("everything fails");
    assert_eq!(error.kind().meaning().http_status, 503, "{error}");
    let asked = upstream.count("/vectors") - before;
    assert!((200..=200 + 16 + 40 + 1).contains(&asked), "{asked} requests for 200 texts");
}

/// A caller who leaves ends its request at the upstream.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_takes_its_requests_along() {
    let upstream = Upstream::start(|arrived| match arrived.body.contains("hang") {
        true => Act::Hang,
        false => container(arrived),
    })
    .await;
    let url = upstream.url();
    let options = RemoteOptions::default();
    let remote =
        startup::connect(Some(&url), Some(&url), false, &options).await.expect("connected").passage.expect("one");
    let call = Call::passages((0..10).map(|i| format!("hang {i}")));
    let before = upstream.count("/vectors");
    let all_asked = async {
        while upstream.count("/vectors") - before < 10 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        answer = remote.embed(call) => panic!("it hangs: {answer:?}"),
        () = all_asked => {}
    }
    let started = Instant::now();
    while upstream.left.load(Ordering::SeqCst) < 10 {
        assert!(started.elapsed() < Duration::from_secs(5), "{} left", upstream.left.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Queries have room of their own while an import fills the rest.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_does_not_keep_queries_waiting() {
    let upstream = Upstream::start(|arrived| match arrived.body.contains("slow") {
        true => Act::Later(Duration::from_secs(5), Box::new(ok(GOOD))),
        false => container(arrived),
    })
    .await;
    let url = upstream.url();
    let options = RemoteOptions { concurrency: 8, ..RemoteOptions::default() };
    let remote =
        startup::connect(Some(&url), Some(&url), false, &options).await.expect("connected").passage.expect("one");
    let import = {
        let remote = remote.clone();
        tokio::spawn(async move { remote.embed(Call::passages(["slow"; 64])).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    remote.embed(Call::query("quick")).await.expect("the call")[0].as_ref().expect("a vector");
    assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
    import.abort();
}

/// 24 callers, three replicas, one dies with requests in flight: nobody notices for long, and it is used again when it is
/// back.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_replicas_may_die_under_load() {
    let script = |arrived: &Arrived| match arrived.path.as_str() {
        "/vectors" => Act::Later(Duration::from_millis(5), Box::new(ok(GOOD))),
        _ => container(arrived),
    };
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Upstream::start(script).await);
    }
    let url = replicas.iter().map(Upstream::url).collect::<Vec<_>>().join(",");
    let options = RemoteOptions::default();
    let remote =
        startup::connect(Some(&url), Some(&url), false, &options).await.expect("connected").passage.expect("one");
    let started = Instant::now();
    let until = started + Duration::from_millis(5500);
    let callers: Vec<_> = (0..24)
        .map(|_| {
            let remote = remote.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let begun = Instant::now();
                    let result = remote.embed(Call::passage("x")).await;
                    let failed = result.and_then(|mut results| results.pop().expect("a result")).err();
                    times.push((begun, begun.elapsed(), failed));
                }
                times
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let dead = replicas.remove(1);
    let (address, served) = (dead.address, dead.count("/vectors"));
    assert!(served > 0, "the replica had its share");
    drop(dead);
    let died = Instant::now();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let back = Upstream::start_at(&address.to_string(), script).await;
    let mut times: Vec<(Instant, Duration, Option<_>)> = Vec::new();
    for caller in callers {
        times.extend(caller.await.expect("a caller"));
    }
    let failed: Vec<_> = times.iter().filter_map(|(.., failed)| failed.as_ref()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {}", failed.len(), times.len(), failed[0]);
    let p99 = |from: Instant, to: Instant| {
        let mut part: Vec<_> =
            times.iter().filter(|(at, ..)| *at >= from && *at < to).map(|(_, took, _)| *took).collect();
        part.sort_unstable();
        part[part.len() * 99 / 100]
    };
    let (before, after) = (p99(started, died), p99(died + Duration::from_secs(2), until));
    println!("{} requests, 0 failed; p99 {before:?} before, {after:?} from 2 s after", times.len());
    assert!(after < before * 3 + Duration::from_millis(100), "p99 {before:?} before and {after:?} after");
    assert!(back.count("/vectors") > 0, "the replica is used again");
}

/// Whatever an upstream asks us to wait, its caller gets an answer, and so does each text beside.
#[tokio::test(flavor = "multi_thread")]
async fn no_retry_after_is_too_long_to_be_read() {
    for asked in
        ["18446744073709551615", "18446744073709551616", "9223372036854775808", "31536000", "-1", "1e400", "NaN", ""]
    {
        let header = format!("retry-after: {asked}\r\n");
        let upstream = Upstream::start(move |arrived: &Arrived| match arrived.path.as_str() {
            "/vectors" if arrived.body.contains("busy") => {
                Act::Answer(503, header.clone(), r#"{"error":"busy"}"#.into())
            }
            "/vectors" => ok(GOOD),
            _ => container(arrived),
        })
        .await;
        let options = RemoteOptions { total_timeout: Duration::from_secs(5), ..RemoteOptions::default() };
        let services = startup::connect(Some(&upstream.url()), None, false, &options).await.expect("connected");
        let backend = services.passage.expect("an upstream");
        let call = Call::passages(["a", "busy", "b"]);
        let begun = Instant::now();
        let results = tokio::time::timeout(Duration::from_secs(10), backend.embed(call)).await.expect("in time");
        let results = results.expect("the texts beside are answered");
        assert!(results[0].is_ok() && results[2].is_ok(), "{asked}: {results:?}");
        let error = results[1].as_ref().expect_err("busy");
        assert_eq!(error.kind().meaning().http_status, 503, "{asked}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(6), "{asked}: {:?}", begun.elapsed());
    }
}

//! The real binary under attack, while a client that behaves well is served and probes are answered.
//!
//! `make attack` runs each attack for a minute against a release build; `make pressure` for a few seconds. All of it is loopback
//! only and bounded in count and time. `T2V_ATTACK_SECONDS` is the time of one attack, `T2V_BIN` another binary. Run with
//! `--nocapture` to see the figures.

mod attacks;
mod http2;
#[path = "../support/mod.rs"]
mod support;
mod witness;

use std::time::{Duration, Instant};

use attacks::Attack;
use support::process::Process;
use support::upstream::{Act, Upstream, ok};
use tokio::sync::Mutex;
use witness::Witness;

/// Each test wants the machine for itself.
static ALONE: Mutex<()> = Mutex::const_new(());

const MIB: usize = 1024 * 1024;

/// How long one attack goes on.
fn duration() -> Duration {
    Duration::from_secs(
        std::env::var("T2V_ATTACK_SECONDS").map_or(4, |text| text.parse().expect("a number of seconds")),
    )
}

/// Attacks a server of these flags, all attacks at once; everybody who behaves well is served meanwhile.
async fn attack(flags: &[&str], attacks: &[Attack]) {
    let _alone = ALONE.lock().await;
    rlimit::increase_nofile_limit(16_384).expect("files");
    let server = Process::start(flags, &[]).await;
    let until = Instant::now() + duration();
    let attackers: Vec<_> = attacks.iter().map(|attack| attack.start(server.address, until)).collect();
    // Not before the attack stands.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let seen = Witness::start(server.address).watch_until(until).await;
    let mut done = Vec::new();
    for (attack, attacker) in attacks.iter().zip(attackers) {
        done.push(format!("{}: {}", attack.name(), attacker.await.expect("an attacker")));
    }
    let (now, peak) = server.memory();
    println!("{}; {seen}; memory {now:.0} MiB, {peak:.0} at most", done.join("; "));
    seen.assert_served();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections() {
    attack(&[], &[Attack::Silent(2000)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_never_end() {
    attack(&[], &[Attack::SlowHeads(500)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_and_many_headers() {
    attack(&[], &[Attack::LargeHeads(16)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_nobody_reads() {
    attack(&[], &[Attack::UnreadAnswers(40)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_never_come() {
    attack(&[], &[Attack::MissingBodies(32), Attack::GrpcByGet(8)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_small_frames() {
    attack(&[], &[Attack::SmallFrames(2)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_resets() {
    attack(&[], &[Attack::RapidReset(8)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_continuations() {
    attack(&[], &[Attack::Continuations(8)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_pings_and_settings() {
    attack(&[], &[Attack::Pings(8)]).await;
}

/// Four connections are all the server has, and a thousand others say nothing: probes have a place of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_have_a_place_beside_a_crowd_of_silent_connections() {
    let _alone = ALONE.lock().await;
    rlimit::increase_nofile_limit(16_384).expect("files");
    let server = Process::start(&["--max-connections", "4"], &[]).await;
    let until = Instant::now() + duration();
    let attacker = Attack::Silent(1044).start(server.address, until);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let seen = Witness::start(server.address).probe_until(until).await;
    println!("{}; {seen}", attacker.await.expect("an attacker"));
    seen.assert_probed();
}

/// Two connections are all the server has. Whoever is refused and goes on sending, a byte a second, has no place meanwhile, with
/// a token or without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_senders_keep_nobodys_place() {
    let _alone = ALONE.lock().await;
    for (variables, status) in [(&[][..], "413"), (&[("AUTHENTICATION_ALLOWED_TOKENS", "a-token")], "401")] {
        let server = Process::start(&["--max-connections", "2"], variables).await;
        let until = Instant::now() + Duration::from_secs(6);
        let senders = [(); 2].map(|()| tokio::spawn(attacks::refused_sender(server.address, until)));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let begun = Instant::now();
        let served = loop {
            let asked = reqwest::Client::builder().no_proxy().build().expect("a client");
            let url = format!("http://{}/vectors", server.address);
            let asked = asked.post(url).bearer_auth("a-token").body(r#"{"text":"served"}"#);
            let answer = asked.send().await.expect("an answer").status();
            if answer != 429 {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let waited = begun.elapsed();
        println!("{status}: served after {waited:?}");
        assert_eq!(served, 200);
        assert!(waited < Duration::from_secs(2), "{status}: {waited:?}");
        for sender in senders {
            let (answer, held) = sender.await.expect("a sender");
            assert!(answer.contains(status), "{answer}");
            println!("a sender was listened to for {held:?}");
            assert!(held > Duration::from_secs(3), "{status}: the attack did not stand: {held:?}");
        }
    }
}

/// An upstream that asks for a wait of 584 thousand million years answers for one text and refuses its neighbour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_asks_for_an_absurd_wait() {
    let _alone = ALONE.lock().await;
    for wait in ["18446744073709551615", "1e400", "-1", "99999999999999999999999"] {
        let upstream = Upstream::start(move |arrived| match &*arrived.path {
            "/meta" | "/.well-known/ready" => ok("{}"),
            _ if arrived.body.contains("refused") => {
                Act::Answer(503, format!("retry-after: {wait}\r\n"), r#"{"error":"later"}"#.into())
            }
            _ => ok(r#"{"text":"x","vector":[1.0,2.0],"dim":2,"dims":2}"#),
        })
        .await;
        let mut command = Process::command();
        command.args(["--upstream", &format!("t2v+{}", upstream.url()), "--max-wait", "5"]);
        let server = Process::launch(command).await;
        let mut connection = support::process::Connection::open(server.address).await.expect("a connection");
        let body = r#"{"texts":["served","refused","served too"]}"#;
        let answer = connection.post(body).await.expect("an answer");
        let answer: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
        let vectors = answer["vectors"].as_array().unwrap_or_else(|| panic!("{wait}: {answer}"));
        assert_eq!((&vectors[0][1], &vectors[2][1]), (&2.0.into(), &2.0.into()), "{wait}: {answer}");
        assert!(answer["errors"][1].as_str().is_some_and(|error| error.contains("later")), "{wait}: {answer}");
    }
}

/// Everything that takes memory at once: bounded meanwhile, as deploy/README.md says under "Sizing", and given back afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_under_attack_and_given_back() {
    let _alone = ALONE.lock().await;
    rlimit::increase_nofile_limit(16_384).expect("files");
    const BODIES: usize = 64 * MIB;
    const ANSWERS: usize = 32 * MIB;
    const CACHE: usize = 8 * MIB;
    /// Of parsed classes (`server/classes.rs`).
    const CLASSES: usize = 16 * MIB;
    let variables = [
        ("T2V_MAX_INFLIGHT_BYTES", &*BODIES.to_string()),
        ("T2V_MAX_ANSWER_BYTES", &*ANSWERS.to_string()),
        ("T2V_CACHE_BYTES", &*CACHE.to_string()),
    ];
    let server = Process::start(&[], &variables).await;
    let (idle, _) = server.memory();
    // It takes its time to fill.
    let until = Instant::now() + duration().max(Duration::from_secs(5));
    let attacks = [
        Attack::Classes(40),
        Attack::UnreadAnswers(40),
        Attack::MissingBodies(32),
        Attack::GrpcByGet(24),
        Attack::Sentences(4),
    ];
    let attackers: Vec<_> = attacks.iter().map(|attack| attack.start(server.address, until)).collect();
    let mut most: f64 = 0.0;
    while Instant::now() < until {
        most = most.max(server.memory().0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut done = Vec::new();
    for (attack, attacker) in attacks.iter().zip(attackers) {
        done.push(format!("{}: {}", attack.name(), attacker.await.expect("an attacker")));
    }
    let ended = Instant::now();
    let mut after = server.memory().0;
    while after > 1.3 * idle && ended.elapsed() < Duration::from_secs(120) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        after = server.memory().0;
    }
    let bounds = (BODIES + ANSWERS + CACHE + CLASSES) as f64 / MIB as f64;
    println!(
        "{}; idle {idle:.0} MiB, attacked {most:.0} (bound 3 x idle + {bounds:.0}), {after:.0} {:.0} s later",
        done.join("; "),
        ended.elapsed().as_secs_f64()
    );
    assert!(most <= 3.0 * idle + bounds, "{most:.0} MiB under attack, idle {idle:.0}");
    assert!(after <= 1.3 * idle, "{after:.0} MiB two minutes later, idle {idle:.0}");
}

//! The cache in front of a backend that counts what it is asked and can be held: hits, coalescing, whose error is whose,
//! callers who leave, and the bound on bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use proptest::prelude::*;
use serde_json::Value;
use text2vec_sidecar::backend::meta::{Meta, ModelReport, Served, Subject};
use text2vec_sidecar::backend::{Backend, Embedding, ModelInfo};
use text2vec_sidecar::cache::{CacheOptions, CacheStats, Cached};
use text2vec_sidecar::contract::call::{Call, EmbedSettings, Text};
use text2vec_sidecar::error::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Nothing here takes longer, unless somebody waits for ever.
const PATIENCE: Duration = Duration::from_secs(20);

type Answers = Result<Vec<Result<Embedding>>>;

/// Answers a text with its number of bytes and the number of the call. Each call needs a permit.
struct Fake {
    info: ModelInfo,
    permits: Semaphore,
    calls: Mutex<Vec<Vec<String>>>,
    /// Errors for the calls to come, first first; `None` lets one pass.
    refusals: Mutex<Vec<Option<ErrorKind>>>,
    dropped: AtomicUsize,
    dimensions: fn(&str) -> usize,
}

impl Fake {
    /// Held until `allow`.
    fn held() -> Fake {
        Fake {
            info: ModelInfo {
                name: "fake".into(),
                fingerprint: "f".into(),
                dimensions: Some(2),
                ..ModelInfo::default()
            },
            permits: Semaphore::new(0),
            calls: Mutex::default(),
            refusals: Mutex::default(),
            dropped: AtomicUsize::new(0),
            dimensions: |_| 2,
        }
    }

    fn free() -> Fake {
        let fake = Fake::held();
        fake.permits.add_permits(Semaphore::MAX_PERMITS / 2);
        fake
    }

    fn calls(&self) -> Vec<Vec<String>> {
        self.calls.lock().expect("calls").clone()
    }

    fn refuse_next(&self, kinds: &[Option<ErrorKind>]) {
        self.refusals.lock().expect("refusals").extend(kinds);
    }

    /// Waits until so many calls have begun.
    async fn begun(&self, calls: usize) {
        until(|| self.calls.lock().expect("calls").len() >= calls).await;
    }
}

/// Counts futures dropped before their end.
struct Abandoned<'a>(&'a AtomicUsize, bool);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Backend for Fake {
    fn embed(&self, call: Call) -> BoxFuture<'_, Answers> {
        Box::pin(async move {
            let number = {
                let mut calls = self.calls.lock().expect("calls");
                calls.push(call.texts.iter().cloned().map(String::from).collect());
                calls.len()
            };
            let refusal = {
                let mut refusals = self.refusals.lock().expect("refusals");
                if refusals.is_empty() { None } else { refusals.remove(0) }
            };
            let mut abandoned = Abandoned(&self.dropped, false);
            self.permits.acquire().await.expect("open").forget();
            abandoned.1 = true;
            if let Some(kind) = refusal {
                return Err(Error::new(kind, format!("call {number}")));
            }
            let answer = |text: &Text| match &**text {
                "panic" => panic!("as asked"),
                "invalid" => Err(Error::invalid("invalid")),
                "too busy" => Err(Error::new(ErrorKind::Overloaded, format!("call {number}"))),
                text => {
                    let mut vector = vec![number as f32; (self.dimensions)(text)];
                    vector[0] = text.len() as f32;
                    Ok(Embedding {
                        vector: vector.into(),
                        tokens: text.len() as u32,
                        truncated: text.starts_with("long"),
                        ignored: if text.starts_with("ignored") { vec!["dimensions"] } else { Vec::new() },
                    })
                }
            };
            Ok(call.texts.iter().map(answer).collect())
        })
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn meta(&self) -> Meta {
        let model = ModelReport { model: "fake".to_owned(), ..ModelReport::default() };
        Meta::of(Subject::default(), Served::Model(Box::new(model)))
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it never happened");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("an answer in time")
}

fn cached(fake: &Arc<Fake>) -> Arc<Cached> {
    Cached::around(fake.clone(), CacheOptions::default()).expect("room")
}

fn passages(texts: &[&str]) -> Call {
    Call::passages(texts.iter().copied())
}

fn spawn(cache: &Arc<Cached>, texts: &[&str]) -> JoinHandle<Answers> {
    let (cache, call) = (cache.clone(), passages(texts));
    tokio::spawn(async move { cache.embed(call).await })
}

async fn embed(cache: &Cached, texts: &[&str]) -> Answers {
    soon(cache.embed(passages(texts))).await
}

fn lengths(answers: &Answers) -> Vec<Option<f32>> {
    let answers = answers.as_ref().expect("the call");
    answers.iter().map(|answer| answer.as_ref().ok().map(|embedding| embedding.vector[0])).collect()
}

#[tokio::test]
async fn a_hit_is_the_very_same_vector_with_all_that_belongs_to_it() {
    let fake = Arc::new(Fake::free());
    let cache = cached(&fake);
    for text in ["plain", "long text", "ignored"] {
        let first = embed(&cache, &[text]).await.expect("the call").remove(0).expect("the text");
        let again = embed(&cache, &[text]).await.expect("the call").remove(0).expect("the text");
        assert_eq!(first, again);
        assert!(Arc::ptr_eq(&first.vector, &again.vector), "no copy");
        assert_eq!(again.truncated, text == "long text");
        assert_eq!(again.ignored.is_empty(), text != "ignored");
    }
    assert_eq!(fake.calls().len(), 3);
    let CacheStats { hits, misses, coalesced, entries, bytes, .. } = cache.stats();
    assert_eq!((hits, misses, coalesced, entries), (3, 3, 0, 3));
    assert!(bytes > 3 * 8);
    assert_eq!(cache.info().name, "fake");
    let meta = Value::Object(cache.meta().to_json());
    assert_eq!(meta["sidecar"]["model"], "fake");
    assert_eq!(meta["sidecar"]["cache"]["hits"], 3);
    assert_eq!(meta["sidecar"]["cache"]["bytes"], bytes);
}

#[test]
fn no_room_is_no_cache() {
    let options = CacheOptions { max_bytes: 0, ttl: None };
    assert!(Cached::around(Arc::new(Fake::free()), options).is_none());
}

#[tokio::test]
async fn only_misses_reach_the_backend_in_one_call_and_order_is_kept() {
    let fake = Arc::new(Fake::free());
    let cache = cached(&fake);
    embed(&cache, &["bb", "dddd"]).await.expect("the call");
    let answers = embed(&cache, &["a", "bb", "ccc", "invalid", "dddd", "ccc", "a", "invalid"]).await;
    assert_eq!(
        lengths(&answers),
        [Some(1.0), Some(2.0), Some(3.0), None, Some(4.0), Some(3.0), Some(1.0), None],
        "hits, misses, errors and repetitions in their places"
    );
    assert_eq!(fake.calls()[1..], [["a", "ccc", "invalid"]]);
    assert!(embed(&cache, &[]).await.expect("the call").is_empty());
    assert_eq!(fake.calls().len(), 2, "nothing to ask");
}

#[tokio::test]
async fn calls_that_differ_in_any_setting_are_computed_apart() {
    let fake = Arc::new(Fake::free());
    let cache = cached(&fake);
    let all = [
        EmbedSettings::default(),
        EmbedSettings::query(),
        EmbedSettings { task_name: Some("passage".into()), ..EmbedSettings::default() },
        EmbedSettings { pooling: Some("cls".into()), ..EmbedSettings::default() },
        EmbedSettings { dimensions: Some(1), ..EmbedSettings::default() },
        EmbedSettings { prompt: Some("cls".into()), ..EmbedSettings::default() },
    ];
    for settings in all.iter().chain(&all) {
        soon(cache.embed(Call::new(vec!["a".into()], settings.clone()))).await.expect("the call");
    }
    assert_eq!(fake.calls(), [["a"]; 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_equal_misses_are_one_forward() {
    let fake = Arc::new(Fake::held());
    let cache = cached(&fake);
    let calls: Vec<_> = (0..100).map(|_| spawn(&cache, &["equal"])).collect();
    until(|| cache.stats().coalesced == 99).await;
    fake.permits.add_permits(100);
    let answers = soon(join_all(calls)).await;
    assert_eq!(fake.calls(), [["equal"]]);
    let first = answers[0].as_ref().expect("no panic").as_ref().expect("the call")[0].clone().expect("the text");
    for answer in answers {
        let embedding = answer.expect("no panic").expect("the call").remove(0).expect("the text");
        assert!(Arc::ptr_eq(&first.vector, &embedding.vector));
    }
    let CacheStats { hits, misses, .. } = cache.stats();
    assert_eq!((hits, misses), (0, 1));
}

/// The same without a start in order: some join, some hit, none computes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_equal_texts_meet_they_are_computed_once() {
    let fake = Arc::new(Fake::free());
    let cache = cached(&fake);
    for round in 0..200 {
        let text = format!("round {round}");
        let answers = soon(join_all((0..16).map(|_| spawn(&cache, &[&text, "x", &text])))).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.is_ok())));
    }
    let mut times = HashMap::new();
    fake.calls().into_iter().flatten().for_each(|text| *times.entry(text).or_insert(0) += 1);
    assert_eq!(times.len(), 201);
    assert!(times.values().all(|&times| times == 1), "{times:?}");
}

#[tokio::test]
async fn a_call_computes_its_own_texts_while_it_waits_for_others() {
    let fake = Arc::new(Fake::held());
    let cache = cached(&fake);
    let first = spawn(&cache, &["a", "bb"]);
    fake.begun(1).await;
    let second = spawn(&cache, &["ccc", "bb"]);
    fake.begun(2).await;
    // Each waits for a text of the other.
    let third = spawn(&cache, &["a", "dddd", "ccc"]);
    fake.begun(3).await;
    assert_eq!(fake.calls(), [vec!["a", "bb"], vec!["ccc"], vec!["dddd"]]);
    fake.permits.add_permits(3);
    assert_eq!(lengths(&soon(third).await.expect("no panic")), [Some(1.0), Some(4.0), Some(3.0)]);
    assert_eq!(lengths(&soon(second).await.expect("no panic")), [Some(3.0), Some(2.0)]);
    assert_eq!(lengths(&soon(first).await.expect("no panic")), [Some(1.0), Some(2.0)]);
}

#[tokio::test]
async fn a_computation_outlives_the_caller_who_began_it() {
    let fake = Arc::new(Fake::held());
    let cache = cached(&fake);
    let first = spawn(&cache, &["a", "bb"]);
    fake.begun(1).await;
    let second = spawn(&cache, &["bb"]);
    until(|| cache.stats().coalesced == 1).await;
    first.abort();
    assert!(soon(first).await.expect_err("cancelled").is_cancelled());
    fake.permits.add_permits(1);
    assert_eq!(lengths(&soon(second).await.expect("no panic")), [Some(2.0)]);
    assert_eq!(fake.calls().len(), 1, "nothing was begun anew");
    assert_eq!(lengths(&embed(&cache, &["a"]).await), [Some(1.0)], "its other text was kept");
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test]
async fn work_that_nobody_waits_for_is_abandoned_and_forgotten() {
    let fake = Arc::new(Fake::held());
    let cache = cached(&fake);
    let callers: Vec<_> = (0..3).map(|_| spawn(&cache, &["a"])).collect();
    until(|| cache.stats().coalesced == 2).await;
    for caller in &callers[..2] {
        caller.abort();
    }
    until(|| callers[..2].iter().all(JoinHandle::is_finished)).await;
    assert_eq!(fake.dropped.load(Ordering::SeqCst), 0, "one still waits");
    callers[2].abort();
    until(|| callers[2].is_finished()).await;
    assert_eq!(fake.dropped.load(Ordering::SeqCst), 1);
    fake.permits.add_permits(1);
    assert_eq!(lengths(&embed(&cache, &["a"]).await), [Some(1.0)], "the seat is free");
    assert_eq!(fake.calls().len(), 2);
}

/// Callers come and leave at random; who stays is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_who_stays_is_left_without_an_answer() {
    let fake = Arc::new(Fake::free());
    let cache = cached(&fake);
    let mut staying = Vec::new();
    for number in 0..2000usize {
        let texts = [format!("{}", number / 16), format!("{}", number / 16 + 1)];
        let call = spawn(&cache, &[&texts[0], &texts[1]]);
        match number % 3 {
            0 => call.abort(),
            1 => {
                tokio::task::yield_now().await;
                call.abort();
            }
            _ => staying.push(call),
        }
    }
    for call in staying {
        assert!(soon(call).await.expect("no panic").expect("the call").iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn errors_are_not_kept() {
    let fake = Arc::new(Fake::free());
    let cache = cached(&fake);
    fake.refuse_next(&[Some(ErrorKind::Overloaded)]);
    assert_eq!(embed(&cache, &["a"]).await.expect_err("refused").kind(), ErrorKind::Overloaded);
    assert_eq!(lengths(&embed(&cache, &["a"]).await), [Some(1.0)]);
    for _ in 0..2 {
        assert_eq!(lengths(&embed(&cache, &["invalid", "too busy"]).await), [None, None]);
    }
    assert_eq!(fake.calls().len(), 4);
    assert_eq!(cache.stats().entries, 1);
}

#[tokio::test]
async fn an_error_of_the_text_is_shared() {
    let fake = Arc::new(Fake::held());
    let cache = cached(&fake);
    let calls: Vec<_> = (0..5).map(|_| spawn(&cache, &["invalid"])).collect();
    until(|| cache.stats().coalesced == 4).await;
    fake.permits.add_permits(1);
    for call in calls {
        assert_eq!(lengths(&soon(call).await.expect("no panic")), [None]);
    }
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test]
async fn an_error_of_another_call_is_not_inherited() {
    for kind in [ErrorKind::DeadlineExceeded, ErrorKind::Overloaded, ErrorKind::TooLarge, ErrorKind::Internal] {
        let fake = Arc::new(Fake::held());
        let cache = cached(&fake);
        fake.refuse_next(&[Some(kind)]);
        let first = spawn(&cache, &["a", "bb"]);
        fake.begun(1).await;
        let joined: Vec<_> = (0..50).map(|_| spawn(&cache, &["bb", "ccc"])).collect();
        until(|| cache.stats().coalesced == 50 + 49).await;
        fake.permits.add_permits(100);
        assert_eq!(soon(first).await.expect("no panic").expect_err("its own error").kind(), kind);
        for call in joined {
            assert_eq!(lengths(&soon(call).await.expect("no panic")), [Some(2.0), Some(3.0)]);
        }
        let mut calls = fake.calls();
        calls.sort();
        assert_eq!(calls, [vec!["a", "bb"], vec!["bb"], vec!["ccc"]], "those who joined asked again together");
    }
}

/// When everything fails: who joined twice asks by itself, and each caller gets the error of a call made for it.
#[tokio::test]
async fn a_backend_that_refuses_everybody_is_not_asked_for_ever() {
    let fake = Arc::new(Fake::held());
    let cache = cached(&fake);
    fake.refuse_next(&[Some(ErrorKind::Overloaded); 100]);
    let calls: Vec<_> = (0..10).map(|_| spawn(&cache, &["a"])).collect();
    until(|| cache.stats().coalesced == 9).await;
    fake.permits.add_permits(1);
    until(|| cache.stats().coalesced == 9 + 8).await;
    assert_eq!(fake.calls().len(), 2, "those who joined asked again together");
    fake.permits.add_permits(1);
    fake.begun(10).await;
    assert_eq!(cache.stats().coalesced, 9 + 8, "and then each alone");
    fake.permits.add_permits(100);
    let mut errors = Vec::new();
    for call in calls {
        let error = soon(call).await.expect("no panic").expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        errors.push(error.message().to_owned());
    }
    errors.sort();
    errors.dedup();
    assert_eq!(errors.len(), 10, "everybody has an error of its own");
    assert_eq!(fake.calls().len(), 10);
}

#[tokio::test]
async fn an_overloaded_text_of_another_call_is_asked_again() {
    let fake = Arc::new(Fake::held());
    let cache = cached(&fake);
    let calls: Vec<_> = (0..2).map(|_| spawn(&cache, &["too busy"])).collect();
    until(|| cache.stats().coalesced == 1).await;
    fake.permits.add_permits(2);
    for call in calls {
        assert_eq!(lengths(&soon(call).await.expect("no panic")), [None]);
    }
    assert_eq!(fake.calls().len(), 2);
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_next_call_is_served() {
    let fake = Arc::new(Fake::held());
    let cache = cached(&fake);
    let first = spawn(&cache, &["panic", "a"]);
    fake.begun(1).await;
    let second = spawn(&cache, &["a"]);
    until(|| cache.stats().coalesced == 1).await;
    fake.permits.add_permits(3);
    assert_eq!(soon(first).await.expect("no panic").expect_err("panicked").kind(), ErrorKind::Internal);
    assert_eq!(lengths(&soon(second).await.expect("no panic")), [Some(1.0)]);
}

#[tokio::test]
async fn a_backend_that_answers_too_little_is_an_error() {
    struct Silent(ModelInfo);
    impl Backend for Silent {
        fn embed(&self, _: Call) -> BoxFuture<'_, Answers> {
            Box::pin(async { Ok(Vec::new()) })
        }
        fn info(&self) -> &ModelInfo {
            &self.0
        }
        fn meta(&self) -> Meta {
            Meta::default()
        }
    }
    let silent =
        Silent(ModelInfo { name: "s".into(), fingerprint: "s".into(), dimensions: Some(1), ..ModelInfo::default() });
    let cache = Cached::around(Arc::new(silent), CacheOptions::default()).expect("room");
    assert_eq!(embed(&cache, &["a"]).await.expect_err("no answers").kind(), ErrorKind::Internal);
    assert!(cache.meta().to_json()["sidecar"]["cache"].is_object(), "also where the backend has no `sidecar`");
}

#[tokio::test]
async fn an_import_cannot_flush_the_queries() {
    let fake = Arc::new(Fake { dimensions: |_| 384, ..Fake::free() });
    let options = CacheOptions { max_bytes: 1 << 20, ttl: None };
    let cache = Cached::around(fake.clone(), options).expect("room");
    let queries = Call::queries((0..50).map(|number| format!("query {number}")));
    soon(cache.embed(queries.clone())).await.expect("the call");
    for number in 0..3000 {
        embed(&cache, &[&format!("passage {number}")]).await.expect("the call");
    }
    let before = fake.calls().len();
    soon(cache.embed(queries)).await.expect("the call");
    assert_eq!(fake.calls().len(), before, "all queries are still known");
    let CacheStats { evictions, entries, bytes, max_bytes, .. } = cache.stats();
    assert!(evictions > 2000 && bytes <= max_bytes && bytes > max_bytes / 2);
    assert_eq!(evictions + entries, 3050);
    // The newest passages are there, the oldest are not: least recently used.
    embed(&cache, &["passage 2999", "passage 2900"]).await.expect("the call");
    assert_eq!(fake.calls().len(), before);
    embed(&cache, &["passage 0"]).await.expect("the call");
    assert_eq!(fake.calls().len(), before + 1);
}

#[tokio::test]
async fn what_is_used_stays_and_no_longer() {
    let fake = Arc::new(Fake { dimensions: |_| 384, ..Fake::free() });
    let cache = Cached::around(fake.clone(), CacheOptions { max_bytes: 1 << 20, ttl: None }).expect("room");
    for number in 0..2000 {
        embed(&cache, &["often", &format!("passage {number}")]).await.expect("the call");
    }
    let times = || fake.calls().into_iter().flatten().filter(|text| text == "often").count();
    assert_eq!(times(), 1);
    // However often it was used: what counts is when it was last.
    for number in 0..2000 {
        embed(&cache, &[&format!("another {number}")]).await.expect("the call");
    }
    embed(&cache, &["often"]).await.expect("the call");
    assert_eq!(times(), 2);
}

#[tokio::test]
async fn entries_die_of_age_when_told_so() {
    let fake = Arc::new(Fake::free());
    let options = CacheOptions { ttl: Some(Duration::from_millis(100)), ..CacheOptions::default() };
    let cache = Cached::around(fake.clone(), options).expect("room");
    embed(&cache, &["a"]).await.expect("the call");
    tokio::time::sleep(Duration::from_millis(150)).await;
    embed(&cache, &["a"]).await.expect("the call");
    assert_eq!(fake.calls().len(), 2);
    assert_eq!(cache.stats().evictions, 1);
    let forever = CacheOptions { ttl: Some(Duration::MAX), ..CacheOptions::default() };
    assert!(Cached::around(fake, forever).is_some(), "no time is too long");
}

/// A vector larger than the whole room is answered, and not kept.
#[tokio::test]
async fn what_does_not_fit_is_served_uncached() {
    let fake = Arc::new(Fake { dimensions: |_| 4096, ..Fake::free() });
    let cache = Cached::around(fake.clone(), CacheOptions { max_bytes: 1000, ttl: None }).expect("room");
    for _ in 0..2 {
        assert_eq!(lengths(&embed(&cache, &["a", "a"]).await), [Some(1.0), Some(1.0)]);
    }
    assert_eq!((fake.calls().len(), cache.stats().bytes), (2, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Calls of random texts, whose vectors have random sizes, in caches of random room: never over the bound, every text
    /// answered with its own vector.
    #[test]
    fn the_bound_holds(
        max_bytes in 1u64..200_000,
        calls in prop::collection::vec(prop::collection::vec((any::<bool>(), 1usize..3000, 0u8..4), 0..40), 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let dimensions = |text: &str| text.split(' ').next().and_then(|size| size.parse().ok()).unwrap_or(1);
            let fake = Arc::new(Fake { dimensions, ..Fake::free() });
            let cache = Cached::around(fake, CacheOptions { max_bytes, ttl: None }).expect("room");
            let mut asked = 0;
            for call in calls {
                let (queries, passages): (Vec<_>, Vec<_>) = call.into_iter().partition(|&(query, ..)| query);
                let text = |(_, size, mark): (bool, usize, u8)| format!("{size} {mark}");
                let queries = Call::queries(queries.into_iter().map(text));
                let passages = Call::passages(passages.into_iter().map(text));
                for call in [passages, queries] {
                    let answers = cache.embed(call.clone()).await.expect("the call");
                    prop_assert_eq!(answers.len(), call.texts.len());
                    for (text, answer) in call.texts.iter().zip(answers) {
                        prop_assert_eq!(answer.expect("the text").vector.len(), dimensions(text));
                    }
                    let stats = cache.stats();
                    prop_assert!(stats.bytes <= max_bytes, "{:?}", stats);
                    asked += call.texts.len() as u64;
                    prop_assert_eq!(stats.hits + stats.misses + stats.coalesced, asked, "each text is counted once");
                }
            }
            Ok(())
        })?;
    }
}

/// The weights are the truth: memory grows by what the cache says it holds. Prints what a hit costs.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn real_memory_is_as_weighed_and_hits_are_quick() {
    fn resident_bytes() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
        statm.split(' ').nth(1).expect("resident").parse::<u64>().expect("pages") * 4096
    }
    let fake = Arc::new(Fake { dimensions: |_| 384, ..Fake::free() });
    let cache = Cached::around(fake, CacheOptions { max_bytes: 192 << 20, ttl: None }).expect("room");
    let before = resident_bytes();
    let kilobyte = "x".repeat(1000);
    let mut number = 0;
    while cache.stats().evictions < 5_000 {
        let call = Call::passages((0..500).map(|index| format!("{number} {index}")));
        cache.embed(call).await.expect("the call");
        number += 1;
    }
    let (grown, stats) = (resident_bytes().saturating_sub(before), cache.stats());
    let ratio = grown as f64 / stats.bytes as f64;
    println!("{} entries weigh {} bytes; {grown} resident, {ratio:.2} times that", stats.entries, stats.bytes);
    assert!(stats.bytes > stats.max_bytes * 7 / 10, "passages fill their share: {stats:?}");
    // The texts that the fake remembers, and other tests beside this one, take some too.
    assert!(ratio < 1.25, "{grown} bytes for {stats:?}");

    cache.embed(passages(&[&kilobyte])).await.expect("the call");
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..10_000 {
        let call = passages(&[&kilobyte]);
        let start = Instant::now();
        cache.embed(call).await.expect("the call");
        times.push(start.elapsed());
    }
    times.sort();
    println!("a hit of 1,000 bytes: p50 {:?}, p99 {:?}", times[5_000], times[9_900]);
    assert!(times[5_000] < Duration::from_millis(1), "p50 {:?}", times[5_000]);
}

//! A caller who leaves costs nothing more: the process is idle again soon after. With a server of its own, so that nothing else
//! uses that process's CPU time.

use crate::support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::process::Process;
use text2vec_sidecar::proto::module_client::ModuleClient;
use text2vec_sidecar::proto::object::Properties;
use text2vec_sidecar::proto::{ClassConfig, Object, VectorizeBatchRequest};
use tonic::Code;

const CLASS: &str = r#"{"class":"Article","properties":[{"name":"body","dataType":["text"]}]}"#;

#[tokio::test]
async fn a_cancelled_or_expired_batch_leaves_the_cpu_idle() {
    let server = Process::start(&[], &[]).await;
    let sentence = "The harbour master wrote down the name of each ship that came in with the evening tide. ";
    let objects: Vec<_> = (0..1000)
        .map(|i| Object {
            properties: Some(Properties::Json(json!({"body": format!("{i} {}", sentence.repeat(30))}).to_string())),
            ..Object::default()
        })
        .collect();
    let config = Some(ClassConfig { class_json: CLASS.into(), ..ClassConfig::default() });
    let request = VectorizeBatchRequest { objects, config, ..VectorizeBatchRequest::default() };
    let channel = tonic::transport::Channel::from_shared(server.url("")).expect("a URL");
    let mut client = ModuleClient::new(channel.connect().await.expect("a connection"));
    for kind in ["cancelled", "expired"] {
        let before = server.cpu_time();
        if kind == "cancelled" {
            let at_work = async {
                while server.cpu_time() - before < Duration::from_millis(500) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                answer = client.vectorize_batch(request.clone()) => panic!("done before it was cancelled: {answer:?}"),
                () = at_work => {}
            }
        } else {
            let mut limited = tonic::Request::new(request.clone());
            limited.set_timeout(Duration::from_millis(1500));
            let status = client.vectorize_batch(limited).await.expect_err("too long for its deadline");
            assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
        }
        let used = server.cpu_time() - before;
        assert!(used > Duration::from_millis(200), "the call did no work: {used:?}");
        // The whole call takes a minute of CPU time; its last batch may end, and memory be looked after, beside others.
        let left = Instant::now();
        loop {
            let idle_from = server.cpu_time();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let afterwards = server.cpu_time() - idle_from;
            if afterwards <= Duration::from_millis(15) {
                println!(
                    "{kind}: {used:?} of CPU time in the call, {afterwards:?} in half a second {:?} later",
                    left.elapsed()
                );
                break;
            }
            assert!(left.elapsed() < Duration::from_secs(10), "{kind}: still busy: {afterwards:?}");
        }
    }
}

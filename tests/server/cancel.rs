//! A caller who leaves costs nothing more: the process is idle again soon after. Alone in its binary and with a server of
//! its own, so that nothing else uses that process's CPU time.

use crate::support;

use std::time::Duration;

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
            let call = client.vectorize_batch(request.clone());
            assert!(
                tokio::time::timeout(Duration::from_millis(700), call).await.is_err(),
                "done too soon to be cancelled"
            );
        } else {
            let mut limited = tonic::Request::new(request.clone());
            limited.set_timeout(Duration::from_millis(700));
            let status = client.vectorize_batch(limited).await.expect_err("too long for its deadline");
            assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
        }
        let used = server.cpu_time() - before;
        assert!(used > Duration::from_millis(200), "the call did no work: {used:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let idle_from = server.cpu_time();
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let afterwards = server.cpu_time() - idle_from;
        println!("{kind}: {used:?} of CPU in the call, {afterwards:?} in the second that begins 200 ms after it");
        assert!(afterwards <= Duration::from_millis(30), "{kind}: still busy: {afterwards:?}");
    }
}

//! A caller who leaves costs nothing more: the process is idle again soon after. Alone in its binary and with a server of
//! its own, so that nothing else uses that process's CPU time.

mod support;

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::json;
use support::model_dir;
use text2vec_sidecar::proto::module_client::ModuleClient;
use text2vec_sidecar::proto::object::Properties;
use text2vec_sidecar::proto::{ClassConfig, Object, VectorizeBatchRequest};
use tonic::Code;

const CLASS: &str = r#"{"class":"Article","properties":[{"name":"body","dataType":["text"]}]}"#;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time of a process, all threads, user and system (fields 14 and 15 of its stat line, in hundredths of a second).
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a stat line").1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("user") + fields[12].parse::<u64>().expect("system");
    Duration::from_millis(ticks * 10)
}

#[tokio::test]
async fn a_cancelled_or_expired_batch_leaves_the_cpu_idle() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let server = Command::new(env!("CARGO_BIN_EXE_text2vec-sidecar"))
        .args(["--model", model_dir().to_str().expect("a path"), "--listen", &address.to_string()])
        .env("RUST_LOG", "error")
        .spawn()
        .expect("the server starts");
    let server = Server(server);
    let pid = server.0.id();
    let client = reqwest::Client::new();
    let started = Instant::now();
    loop {
        let answer = client.get(format!("http://{address}/.well-known/ready")).send().await;
        if answer.is_ok_and(|answer| answer.status() == 204) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "not ready after a minute");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let sentence = "The harbour master wrote down the name of each ship that came in with the evening tide. ";
    let objects: Vec<_> = (0..1000)
        .map(|i| Object {
            properties: Some(Properties::Json(json!({"body": format!("{i} {}", sentence.repeat(30))}).to_string())),
            ..Object::default()
        })
        .collect();
    let config = Some(ClassConfig { class_json: CLASS.into(), ..ClassConfig::default() });
    let request = VectorizeBatchRequest { objects, config, ..VectorizeBatchRequest::default() };
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).expect("a URL");
    let mut client = ModuleClient::new(channel.connect().await.expect("a connection"));
    for kind in ["cancelled", "expired"] {
        let before = cpu_time(pid);
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
        let used = cpu_time(pid) - before;
        assert!(used > Duration::from_millis(200), "the call did no work: {used:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let idle_from = cpu_time(pid);
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let afterwards = cpu_time(pid) - idle_from;
        println!("{kind}: {used:?} of CPU in the call, {afterwards:?} in the second that begins 200 ms after it");
        assert!(afterwards <= Duration::from_millis(30), "{kind}: still busy: {afterwards:?}");
    }
}

//! What clients of OpenAI's, Ollama's and text-embeddings-inference's APIs ask beside the texts' vectors, and where; `make
//! e2e` has the clients themselves.

use crate::support;

use std::sync::Arc;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use support::process::Process;
use support::{FakeBackend, TestServer, options};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::server::{Access, Limits, Origins, Readiness, ServerOptions};

fn client() -> Client {
    Client::builder().no_proxy().build().expect("client")
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let body = response.bytes().await.expect("a body");
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned())))
}

async fn post(server: &TestServer, path: &str, body: Value) -> (u16, Value) {
    answer(client().post(server.url(path)).json(&body)).await
}

async fn get(server: &TestServer, path: &str) -> (u16, Value) {
    answer(client().get(server.url(path))).await
}

/// Its error, in whichever of the shapes.
fn message(answer: &Value) -> &str {
    answer["error"].as_str().or(answer["error"]["message"].as_str()).unwrap_or_else(|| panic!("no error: {answer}"))
}

/// A server of one model, `BAAI/bge:v1.5`, with tokens asked for or pages allowed.
async fn server(options: ServerOptions) -> TestServer {
    let readiness = Readiness::of([Some("BAAI/bge:v1.5".to_owned())]);
    readiness.ready(Arc::new(FakeBackend::new(3)));
    TestServer::start_serving(options, readiness).await
}

#[tokio::test]
async fn the_root_is_embed_and_embeddings_need_no_version() {
    let server = server(ServerOptions::default()).await;
    for base in ["", "/models/fake", "/models/BAAI/bge:v1.5", "/models/BAAI%2Fbge:v1.5", "//models//BAAI/bge%3Av1.5/"] {
        let embed = post(&server, "/embed", json!({"inputs": ["ab", "c"]})).await;
        assert_eq!(embed.0, 200);
        for path in ["", "/", "/embed", "/embed/"] {
            assert_eq!(
                post(&server, &format!("{base}{path}"), json!({"inputs": ["ab", "c"]})).await,
                embed,
                "{base}{path}"
            );
        }
        let openai = post(&server, "/v1/embeddings", json!({"input": ["ab", "c"]})).await;
        assert_eq!((openai.0, openai.1["data"].as_array().map(Vec::len)), (200, Some(2)));
        for path in ["/embeddings", "/v1/embeddings", "/v1/embeddings/"] {
            assert_eq!(
                post(&server, &format!("{base}{path}"), json!({"input": ["ab", "c"]})).await,
                openai,
                "{base}{path}"
            );
        }
    }
    for (path, body, field) in
        [("/", json!({}), "'inputs' is missing"), ("/embeddings", json!({}), "'input' is missing")]
    {
        let (status, answer) = post(&server, path, body).await;
        assert!((400..500).contains(&status) && message(&answer).contains(field), "{path}: {answer}");
    }
    for path in ["/models/no/such", "/models/no/such/", "/models/no/such/embeddings"] {
        let (status, answer) = post(&server, path, json!({"inputs": "x", "input": "x", "text": "x"})).await;
        assert!(status == 404 && message(&answer).contains("model"), "{path}: {status} {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn whoever_opens_the_root_is_told_what_this_is() {
    let server = server(ServerOptions::default()).await;
    for path in ["/", "/models/BAAI/bge:v1.5"] {
        let (status, text) = get(&server, path).await;
        assert_eq!(status, 200);
        for words in ["text2vec-sidecar", "is running", "/vectors", "/meta", "/v1/embeddings"] {
            assert!(text.as_str().expect("text").contains(words), "{text}");
        }
    }
    assert_eq!(answer(client().head(server.url("/"))).await.0, 200);
    let (status, answer) = get(&server, "/models/no/such").await;
    assert!(status == 404 && message(&answer).contains("'BAAI/bge:v1.5'"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn ollamas_clients_find_their_model() {
    let server = server(ServerOptions::default()).await;
    let names = |answer: &Value| -> Vec<String> {
        let models = answer["models"].as_array().expect("a list").iter();
        models.map(|model| model["model"].as_str().expect("a name").to_owned()).collect()
    };
    let (_, tags) = get(&server, "/api/tags").await;
    assert_eq!(names(&tags), ["BAAI/bge:v1.5", "fake:latest"]);
    for name in names(&tags).iter().map(String::as_str).chain(["fake"]) {
        assert_eq!(post(&server, "/api/embed", json!({"model": name, "input": "x"})).await.0, 200, "{name}");
        for key in ["model", "name"] {
            let (status, shown) = post(&server, "/api/show", json!({key: name, "verbose": true})).await;
            assert_eq!((status, &shown["capabilities"]), (200, &json!(["embedding"])), "{name}: {shown}");
            assert!(
                shown["details"].is_object() && shown["model_info"].is_object() && shown["modified_at"].is_string()
            );
        }
    }
    let (_, running) = get(&server, "/api/ps").await;
    assert_eq!(names(&running), ["BAAI/bge:v1.5"], "each model once");
    for key in ["name", "size", "digest", "details", "expires_at", "size_vram", "context_length"] {
        assert!(!running["models"][0][key].is_null(), "{key}: {running}");
    }
    for (path, body) in [
        ("/api/show", json!({"model": "BAAI/bge"})),
        ("/api/show", json!({"model": "BAAI/bge:v1.5:latest"})),
        ("/api/embed", json!({"model": "bge:v1.5", "input": "x"})),
    ] {
        let (status, answer) = post(&server, path, body.clone()).await;
        let found = status == 200;
        assert!(found == (body["model"] == "BAAI/bge:v1.5:latest"), "{body}: {answer}");
        assert!(found || message(&answer).contains("'BAAI/bge:v1.5'"), "{answer}");
    }
    server.stop().await;

    let server = TestServer::start_model(options(Profile::SentenceTransformers)).await;
    let (_, shown) = post(&server, "/api/show", json!({})).await;
    let about = &shown["model_info"];
    assert_eq!((&about["bert.embedding_length"], &about["bert.context_length"]), (&json!(384), &json!(256)), "{shown}");
    server.stop().await;
}

#[tokio::test]
async fn lists_have_every_name_that_is_accepted() {
    let server = server(ServerOptions::default()).await;
    let (_, models) = get(&server, "/v1/models").await;
    let names: Vec<_> = models["data"].as_array().expect("a list").iter().map(|model| model["id"].clone()).collect();
    assert_eq!(names, ["BAAI/bge:v1.5", "fake"]);
    for name in names {
        assert_eq!(post(&server, "/v1/embeddings", json!({"model": name, "input": "x"})).await.0, 200, "{name}");
        let path = name.as_str().expect("text");
        assert_eq!(get(&server, &format!("/v1/models/{path}")).await.0, 200, "{name}");
        assert_eq!(post(&server, &format!("/models/{path}/vectors"), json!({"text": "x"})).await.0, 200, "{name}");
        assert_eq!(get(&server, &format!("/models/{path}/.well-known/ready")).await.0, 204, "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn tokens_are_told_and_embedded_as_the_text_they_stand_for() {
    for profile in [Profile::Transformers, Profile::SentenceTransformers] {
        let server = TestServer::start_model(options(profile)).await;
        let text = "Das Café in 東京 isn't \u{1f6f6} unbelievably far!";
        let (status, lists) = post(&server, "/tokenize", json!({"inputs": [text, ""]})).await;
        assert_eq!((status, lists.as_array().map(Vec::len)), (200, Some(2)), "{lists}");
        let tokens = lists[0].as_array().expect("tokens");
        let edges = [&tokens[0], &tokens[tokens.len() - 1]];
        assert_eq!(
            edges.map(|token| (token["id"].clone(), token["text"].clone(), token["special"].clone())),
            [(json!(101), json!("[CLS]"), json!(true)), (json!(102), json!("[SEP]"), json!(true))]
        );
        assert!(edges[0]["start"].is_null() && edges[0]["stop"].is_null());
        for token in &tokens[1..tokens.len() - 1] {
            let place = |key: &str| token[key].as_u64().expect("a place") as usize;
            assert_eq!(
                (&token["text"], &token["special"]),
                (&json!(text[place("start")..place("stop")]), &json!(false))
            );
        }
        let (_, bare) = post(&server, "/tokenize", json!({"inputs": text, "add_special_tokens": false})).await;
        assert_eq!(bare[0].as_array().map(Vec::len), Some(tokens.len() - 2));

        let ids_of = async |text: &str| -> Vec<u64> {
            let (_, lists) = post(&server, "/tokenize", json!({"inputs": text})).await;
            lists[0].as_array().expect("tokens").iter().map(|token| token["id"].as_u64().expect("an id")).collect()
        };
        let (_, texts) = post(&server, "/decode", json!({"ids": [ids_of("Hello, World!").await, [7592]]})).await;
        assert_eq!(texts, json!(["hello, world!", "hello"]));
        let (_, texts) = post(&server, "/decode", json!({"ids": [101, 7592, 102], "skip_special_tokens": false})).await;
        assert_eq!(texts, json!(["[CLS] hello [SEP]"]));

        let plain = ["the london eye is a wheel on the thames", "what isn't there? nobody knows."];
        let ids = [ids_of(plain[0]).await, ids_of(plain[1]).await];
        for body in [json!({"inputs": ids}), json!({"inputs": [ids[0], plain[1]]})] {
            let of_ids = post(&server, "/embed", body).await;
            assert_eq!(of_ids, post(&server, "/embed", json!({"inputs": plain})).await, "{profile}");
        }
        let one = post(&server, "/", json!({"inputs": ids[0]})).await;
        assert_eq!(one, post(&server, "/", json!({"inputs": plain[0]})).await, "{profile}");
        server.stop().await;
    }
}

/// Token ids of another tokenizer never become a vector.
#[tokio::test]
async fn ids_that_are_not_this_models_own_are_refused() {
    let server = TestServer::start_model(options(Profile::SentenceTransformers)).await;
    // "The London Eye is a wheel." by cl100k, without special tokens, of an unknown token, with a special one inside, too large,
    // as this tokenizer does not cut the text ("he", "##llo"), and padded.
    for ids in [
        json!([791, 7295, 26784, 374, 264, 13672, 13]),
        json!([7592, 2088]),
        json!([101, 100, 102]),
        json!([101, 7592, 102, 7592, 102]),
        json!([101, 30522, 102]),
        json!([101, 2002, 7174, 102]),
        json!([101, 7592, 102, 0, 0]),
        json!([[101, 7592, 102], [7592]]),
    ] {
        let (status, answer) = post(&server, "/embed", json!({"inputs": ids})).await;
        let text = message(&answer);
        assert!(
            status == 422 && (text.contains("POST /tokenize") || text.contains("no token")),
            "{ids}: {status} {text}"
        );
    }
    for path in ["/v1/embeddings", "/embeddings"] {
        for ids in [json!([791, 7295]), json!([[101, 7592, 102]])] {
            let (status, answer) = post(&server, path, json!({"input": ids})).await;
            assert_eq!(status, 400, "{answer}");
            assert!(message(&answer).contains("check_embedding_ctx_length=False"), "{answer}");
        }
    }
    assert_eq!(post(&server, "/api/embed", json!({"input": [101, 7592, 102]})).await.0, 400);
    server.stop().await;
}

#[tokio::test]
async fn asking_for_tokens_has_a_limit() {
    let limits = Limits { max_tokenize_bytes: 400, max_texts: 3, ..Limits::default() };
    let server = TestServer::start_unready(limits).await;
    assert_eq!(post(&server, "/tokenize", json!({"inputs": "x"})).await.0, 503);
    let backend =
        text2vec_sidecar::backend::local::LocalBackend::load(&options(Profile::Transformers)).expect("a model");
    server.readiness.ready(Arc::new(backend));
    assert_eq!(post(&server, "/tokenize", json!({"inputs": ["!".repeat(200), "?".repeat(200)]})).await.0, 200);
    for (path, body) in [
        ("/tokenize", json!({"inputs": ["!".repeat(200), "?".repeat(201)]})),
        ("/decode", json!({"ids": vec![7592; 101]})),
        ("/decode", json!({"ids": [vec![7592; 60], vec![7592; 60]]})),
        ("/embed", json!({"inputs": vec![7592; 101]})),
        ("/v1/embeddings", json!({"input": vec![7592; 101]})),
    ] {
        let (status, answer) = post(&server, path, body).await;
        assert!(status == 413 && message(&answer).contains("--max-tokenize-bytes"), "{path}: {status} {answer}");
    }
    let (status, answer) = post(&server, "/tokenize", json!({"inputs": ["a", "b", "c", "d"]})).await;
    assert!(status == 413 && message(&answer).contains("--max-texts"), "{status} {answer}");
    for (path, body, words) in [
        ("/tokenize", json!({"inputs": "x", "prompt_name": "query"}), "'prompt_name'"),
        ("/tokenize", json!({"inputs": [1]}), "token ids"),
        ("/decode", json!({"ids": "x"}), "'ids' must be"),
        ("/decode", json!({"ids": [4_000_000_000_u32]}), "no token"),
    ] {
        let (status, answer) = post(&server, path, body).await;
        assert!(status == 422 && message(&answer).contains(words), "{path}: {status} {answer}");
    }
    let (_, meta) = get(&server, "/meta").await;
    assert_eq!(meta["sidecar"]["max_tokenize_bytes"], 400);
    server.stop().await;

    let server = self::server(ServerOptions::default()).await;
    for (path, body) in [("/tokenize", json!({"inputs": "x"})), ("/embed", json!({"inputs": [1]}))] {
        let (status, answer) = post(&server, path, body).await;
        assert!(status == 422 && message(&answer).contains("not known here"), "{path}: {status} {answer}");
    }
    server.stop().await;
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, bytes).expect("write");
    encoder.finish().expect("gzip")
}

#[tokio::test]
async fn compressed_bodies_are_read_and_bounded() {
    let limits = Limits { max_body_bytes: 1_000_000, ..Limits::default() };
    let server = server(ServerOptions { limits, ..ServerOptions::default() }).await;
    let send = |path: &str, coding: &'static str, body: Vec<u8>| {
        client().post(server.url(path)).header("content-encoding", coding).body(body)
    };
    let body = json!({"text": "a text", "inputs": "a text", "input": "a text"}).to_string().into_bytes();
    let padded = json!({"text": "a text", "more": "x".repeat(990_000)}).to_string().into_bytes();
    for path in ["/vectors", "/embed", "/v1/embeddings", "/api/embed", "/models/fake/vectors"] {
        let plain = answer(client().post(server.url(path)).body(body.clone())).await;
        assert_eq!(plain.0, 200, "{path}");
        for coding in ["gzip", "x-gzip", "GZIP", "identity, gzip"] {
            let mut zipped = answer(send(path, coding, gzip(&body))).await;
            if let Some(fields) = zipped.1.as_object_mut().filter(|fields| fields.contains_key("total_duration")) {
                fields.insert("total_duration".into(), plain.1["total_duration"].clone());
            }
            assert_eq!(zipped, plain, "{path} {coding}");
        }
        for coding in ["br", "deflate", "zstd", "gzip, gzip"] {
            let (status, refusal) = answer(send(path, coding, body.clone())).await;
            assert!(status == 415 && message(&refusal).contains("as gzip"), "{path} {coding}: {status} {refusal}");
        }
        let (status, refusal) = answer(send(path, "gzip", gzip(&vec![b' '; 50_000_000]))).await;
        assert!(status == 413 && message(&refusal).contains("--max-body-bytes"), "{path}: {status} {refusal}");
        for broken in [body.clone(), gzip(&body)[..30].to_vec()] {
            let (status, refusal) = answer(send(path, "gzip", broken)).await;
            assert!(
                [400, 422].contains(&status) && message(&refusal).contains("gzip body"),
                "{path}: {status} {refusal}"
            );
        }
    }
    assert_eq!(answer(send("/vectors", "identity", body)).await.0, 200);
    assert_eq!(answer(send("/vectors", "gzip", gzip(&padded))).await.0, 200);
    server.stop().await;
}

/// What comes out of many small bodies at once is held in the room for bodies.
#[tokio::test]
async fn bombs_find_no_more_room_than_plain_bodies() {
    let process = Process::start(&["--max-inflight-bytes", "134217728", "--max-wait", "5"], &[]).await;
    let (before, _) = process.memory();
    let bomb = gzip(&vec![b' '; 150_000_000]);
    println!("{} bytes make 150 MB", bomb.len());
    let calls = (0..16)
        .map(|_| answer(client().post(process.url("/vectors")).header("content-encoding", "gzip").body(bomb.clone())));
    for (status, answer) in futures_util::future::join_all(calls).await {
        assert!([413, 429].contains(&status), "{status} {answer}");
    }
    let (_, most) = process.memory();
    println!("sixteen bombs: {before:.0} MiB before, {most:.0} MiB at the most");
    assert!(most - before < 400.0, "{before:.0} MiB before, {most:.0} MiB at the most");
}

/// A body of numbers takes the memory of its bytes, not thirty-two bytes a number.
#[tokio::test]
async fn a_long_list_of_numbers_takes_little_memory() {
    let process = Process::start(&[], &[]).await;
    let (before, _) = process.memory();
    let numbers = |count: usize| format!("[1{}]", ",1".repeat(count));
    let count = 8_000_000;
    for (path, body, expected) in [
        ("/v1/embeddings", format!(r#"{{"input":{}}}"#, numbers(count)), 413),
        ("/v1/embeddings", format!(r#"{{"input":"x","user":{}}}"#, numbers(count)), 200),
        ("/embed", format!(r#"{{"inputs":"x","truncate":{}}}"#, numbers(count)), 422),
        ("/embed", format!(r#"{{"inputs":["x"{}]}}"#, ",{}".repeat(count / 2)), 422),
        ("/vectors", format!(r#"{{"texts":{}}}"#, numbers(count)), 422),
        ("/vectors", format!(r#"{{"texts":["x"{}]}}"#, r#","""#.repeat(count / 2)), 413),
        (
            "/vectors",
            format!(r#"{{"text":"x","more":{},"config":{{"more":{}}}}}"#, numbers(count / 2), numbers(count / 2)),
            200,
        ),
        (
            "/vectors",
            format!(r#"{{"text":"x"{}}}"#, (0..1_000_000).map(|i| format!(r#","{i}":1"#)).collect::<String>()),
            400,
        ),
    ] {
        let (status, answer) = answer(client().post(process.url(path)).body(body)).await;
        assert_eq!(status, expected, "{path}: {}", answer.to_string().chars().take(300).collect::<String>());
    }
    let (_, most) = process.memory();
    println!("a body of 16 MB of numbers: {before:.0} MiB before, {most:.0} MiB at the most");
    assert!(most - before < 110.0, "{before:.0} MiB before, {most:.0} MiB at the most");
}

#[tokio::test]
async fn pages_of_named_origins_may_call_and_others_may_not() {
    let page = "https://app.example.com";
    let ask = |server: &TestServer, origin: &str| {
        let request = client().request(Method::OPTIONS, server.url("/v1/embeddings")).header("origin", origin);
        request
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
    };
    let header = |response: &reqwest::Response, name: &str| {
        response.headers().get(name).map(|value| value.to_str().expect("text").to_owned())
    };
    const ALLOWED: &str = "access-control-allow-origin";
    // With tokens: what a browser asks beforehand has none.
    let options = |cors: &str| ServerOptions {
        access: Access::new(Some("secret"), None, false).expect("tokens"),
        cors: Origins::parse(cors).expect("origins"),
        ..ServerOptions::default()
    };
    for (cors, allowed) in [("https://other.example.com,https://app.example.com", page), ("*", "*")] {
        let server = server(options(cors)).await;
        let preflight = ask(&server, page).send().await.expect("an answer");
        assert_eq!((preflight.status().as_u16(), header(&preflight, ALLOWED).as_deref()), (200, Some(allowed)));
        let (methods, headers) = ("access-control-allow-methods", "access-control-allow-headers");
        assert!(header(&preflight, methods).expect("methods").contains("POST"));
        assert_eq!(header(&preflight, headers).as_deref(), Some("authorization,content-type"));
        assert_eq!(header(&preflight, "access-control-allow-credentials"), None);
        let call = |token: &str| {
            let request = client().post(server.url("/v1/embeddings")).header("origin", page).bearer_auth(token);
            request.json(&json!({"input": "x"})).send()
        };
        // A refusal too is for the page to read.
        for (token, status) in [("secret", 200), ("wrong", 401)] {
            let response = call(token).await.expect("an answer");
            assert_eq!((response.status().as_u16(), header(&response, ALLOWED).as_deref()), (status, Some(allowed)));
        }
        let stranger = ask(&server, "https://evil.example.com").send().await.expect("an answer");
        assert_eq!(header(&stranger, ALLOWED).as_deref(), (cors == "*").then_some("*"));
        server.stop().await;
    }
    let server = server(options("")).await;
    let preflight = ask(&server, page).send().await.expect("an answer");
    assert_eq!((preflight.status().as_u16(), header(&preflight, ALLOWED)), (401, None), "off by default");
    server.stop().await;
}

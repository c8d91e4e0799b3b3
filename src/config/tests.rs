//! What flags and variables mean together.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser};
use text2vec_engine::device::GPU_SUPPORT;

use super::args::parse_listen;
use super::file::settings_of_serve;
use super::model_choice::MAX_NAME;
use super::serves::{models, models_with};
use super::*;
use crate::error::{Error, Result};
use crate::model::locate::IMAGE_MODEL_DIR;

fn env(pairs: &[(&str, &str)]) -> Result<ReferenceEnv> {
    ReferenceEnv::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

/// What arguments, beside these variables of other programs, come to.
fn settings(variables: &[(&str, &str)], arguments: &[&str]) -> Result<Settings> {
    let arguments = ["text2vec-sidecar"].iter().chain(arguments);
    let line = CommandLine::read(arguments.map(OsString::from).collect()).expect("arguments");
    let args = Cli::from_arg_matches(&line.matches).expect("arguments").serve;
    Settings::beside(&line, &args, &env(variables).expect("variables"))
}

/// A line of the table: value and source.
fn line(settings: &Settings, name: &str) -> (String, String) {
    let line = settings.table.0.iter().find(|line| line.name == name).unwrap_or_else(|| panic!("no {name}"));
    (line.value.clone(), line.source.to_string())
}

#[test]
fn every_setting_has_one_line_in_the_order_of_the_flags() {
    for arguments in [&[][..], &["--model", "a=x,y"], &["--upstream", "http://a"], &["--upstream", "a=http://a"]] {
        let table = settings(&[], arguments).expect("settings").table;
        let names: Vec<String> = table.0.into_iter().map(|line| line.name).collect();
        let root = Cli::command();
        let flags: Vec<&str> = settings_of_serve(&root).filter_map(clap::Arg::get_long).collect();
        assert_eq!(names, flags, "{arguments:?}");
    }
}

#[test]
fn values_of_other_programs_have_their_variables_for_source() {
    let api = "TRANSFORMERS_INFERENCE_API";
    let (ours, default) = (|name: &str| name.to_owned(), "default".to_owned());
    let line = |variables: &[(&str, &str)], arguments: &[&str], name: &str| {
        line(&settings(variables, arguments).expect("settings"), name)
    };
    assert_eq!(line(&[(api, "http://u:p@a")], &[], "query-upstream"), (ours("http://…@a"), ours(api)));
    assert_eq!(line(&[(api, "http://a")], &[], "model"), (ours("-"), ours("texts are forwarded")));
    assert_eq!(line(&[(api, "http://a")], &[], "cache-ttl"), (ours("600"), default.clone()));
    assert_eq!(line(&[(api, "http://a")], &["--cache-ttl", "9"], "cache-ttl"), (ours("9"), ours("--cache-ttl")));
    let itself = &["--self-urls", "http://a"];
    assert_eq!(
        line(&[(api, "http://a")], itself, "cache-ttl"),
        (ours("never"), default.clone()),
        "nothing is forwarded"
    );
    assert_eq!(line(&[(api, "http://a")], itself, "model").1, default);
    assert_eq!(line(&[], &["--upstream", "http://a"], "passage-upstream"), (ours("http://a"), ours("--upstream")));
    let of_pair =
        [("TRANSFORMERS_PASSAGE_INFERENCE_API", "http://a"), ("TRANSFORMERS_QUERY_INFERENCE_API", "http://a")];
    assert_eq!(line(&of_pair, &[], "query-upstream").1, "TRANSFORMERS_QUERY_INFERENCE_API");
    assert_eq!(line(&[("ENABLE_CACHE", "0")], &[], "cache-bytes"), (ours("0"), ours("ENABLE_CACHE")));
    assert_eq!(line(&[("ENABLE_CACHE", "0")], &["--cache-bytes", "5"], "cache-bytes").0, "5");
    assert_eq!(line(&[("LOG_FORMAT", "json")], &[], "log-format"), (ours("json"), ours("LOG_FORMAT")));
    assert_eq!(
        line(&[], &["--passage-model", "a", "--query-model", "b"], "model").1,
        "--passage-model and --query-model"
    );
    assert_eq!(line(&[], &["--upstream", "a=http://a"], "model").1, "--upstream");
    assert_eq!(line(&[], &["--auth-metrics"], "auth-metrics"), (ours("true"), ours("--auth-metrics")));
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn reference_variables_have_the_references_idea_of_truth() {
    let direct = |value| env(&[("T2V_TRANSFORMERS_DIRECT_TOKENIZE", value)]).expect("env").direct_tokenize;
    assert_eq!(["true", "1", "True", "yes", ""].map(direct), [true, true, false, false, false]);
    let prefixes = |value| env(&[("USE_QUERY_PASSAGE_PREFIXES", value)]).expect("env").task_prefixes;
    assert_eq!(["true", "false", "0", ""].map(prefixes), [true, true, true, false]);
    let cuda = env(&[("ENABLE_CUDA", "1")]).expect("env");
    assert_eq!((cuda.warnings.len(), cuda.device.is_some()), if GPU_SUPPORT { (0, true) } else { (1, false) });
    let tokens = env(&[("AUTHENTICATION_ALLOWED_TOKENS", "verysecret")]).expect("env");
    assert!(tokens.allowed_tokens.is_some() && !format!("{tokens:?}").contains("verysecret"));
}

#[test]
fn serve_is_the_default_and_the_model_has_an_order() {
    let cli = Cli::parse_from(["text2vec-sidecar", "--model", "x", "--direct-tokenize"]);
    assert!(cli.command.is_none());
    assert_eq!(cli.serve.model.direct_tokenize, Some(true));
    let named = env(&[("MODEL_NAME", "org/name")]).expect("env");
    let model =
        |env: &ReferenceEnv, args: &ModelArgs, image| models_with(args, env, image).expect("models")[0].source.clone();
    assert_eq!(model(&named, &cli.serve.model, Some(IMAGE_MODEL_DIR)), "x");
    let bare = Cli::parse_from(["text2vec-sidecar"]).serve.model;
    assert_eq!(model(&named, &bare, Some(IMAGE_MODEL_DIR)), IMAGE_MODEL_DIR);
    assert_eq!(model(&named, &bare, None), "org/name");
    assert_eq!(model(&env(&[]).expect("env"), &bare, None), DEFAULT_MODEL);
}

#[test]
fn addresses_to_listen_on_may_be_names_and_ports() {
    let listen = |text: &str| parse_listen(text).map(|address| address.to_string());
    for (text, address) in [
        ("127.0.0.1:8081", "127.0.0.1:8081"),
        ("[::1]:8081", "[::1]:8081"),
        (":8081", "0.0.0.0:8081"),
        ("localhost:8081", "127.0.0.1:8081"),
    ] {
        assert_eq!(listen(text).as_deref(), Ok(address), "{text}");
    }
    for text in
        ["", ":", "8080", "localhost", "localhost:", "localhost:99999", "http://localhost:80", "::1:80x", "a:b:80"]
    {
        assert!(parse_listen(text).is_err_and(|error| error.contains(":8080")), "{text}");
    }
    assert!(parse_listen("no.such.host.invalid:80").is_err_and(|error| error.contains("'no.such.host.invalid'")));
}

#[test]
fn a_model_that_a_flag_names_is_not_put_aside_for_a_shared_variable() {
    let common = &[("TRANSFORMERS_INFERENCE_API", "http://other:8080")][..];
    let pair = &[
        ("TRANSFORMERS_PASSAGE_INFERENCE_API", "http://me:1"),
        ("TRANSFORMERS_QUERY_INFERENCE_API", "http://other:1"),
    ][..];
    let forwards = |variables: &[(&str, &str)], arguments: &[&str]| {
        let settings = settings(variables, arguments)?;
        Ok::<_, Error>((settings.endpoints.environment().is_some(), settings.model.log.warnings.len()))
    };
    assert_eq!(forwards(common, &[]), Ok((true, 0)));
    assert_eq!(forwards(common, &["--model", "x"]), Ok((false, 1)));
    assert_eq!(forwards(common, &["--passage-model", "x", "--query-model", "y"]), Ok((false, 1)));
    assert_eq!(forwards(common, &["--model", "x", "--self-urls", "http://other:8080"]), Ok((true, 0)), "it is local");
    assert_eq!(forwards(pair, &["--model", "x", "--self-urls", "http://me:1"]), Ok((true, 0)), "a model for passages");
    assert_eq!(forwards(pair, &["--model", "x"]), Ok((false, 1)));
    assert_eq!(forwards(common, &["--query-upstream", "http://a", "--model", "x"]), Ok((true, 1)), "the flags' pair");
    assert_eq!(forwards(&[], &["--query-upstream", "http://a", "--model", "x"]), Ok((true, 0)));
    assert_eq!(forwards(common, &["--upstream", "http://a"]), Ok((true, 0)));
    assert_eq!(forwards(common, &["--upstream", "a=http://a"]), Ok((false, 1)));
    assert_eq!(forwards(common, &["--model", ""]), Ok((true, 0)), "a variable that nobody filled in");
    let models = ["--passage-model", "x", "--query-model", "y"];
    assert_eq!(forwards(pair, &[&models[..], &["--self-urls", "http://me:1"]].concat()), Ok((false, 1)));
    for arguments in [
        &["--model", "x", "--upstream", "http://a"][..],
        &["--model", "x", "--passage-upstream", "http://a", "--query-upstream", "http://b"],
        &["--passage-model", "x", "--query-model", "y", "--upstream", "http://a"],
        &["--passage-model", "x", "--query-model", "y", "--query-upstream", "http://a"],
    ] {
        let error = forwards(common, arguments).expect_err("both");
        assert!(error.message().contains("--upstream (T2V_UPSTREAM)"), "{error}");
        assert!(error.message().contains("are both given"), "{error}");
    }
}

#[test]
fn a_profile_may_be_one_model_s() {
    let read = |arguments: &[&str]| {
        let settings = settings(&[], arguments)?;
        let profile = |model: &ModelChoice| {
            let profile = settings.model.profiles.of(model.name.as_deref(), &model.source);
            profile.map_or("auto", |profile| profile.as_str())
        };
        Ok::<_, Error>(settings.serves.models().iter().map(profile).collect::<Vec<_>>())
    };
    let models = ["--model", "a=x", "--model", "b=./y", "--model", "org/z"];
    let with = |profiles: &[&'static str]| read(&[&models[..], profiles].concat());
    assert_eq!(with(&[]), Ok(vec!["auto"; 3]));
    assert_eq!(with(&["--profile", "onnx"]), Ok(vec!["onnx"; 3]));
    assert_eq!(with(&["--profile", "b=model2vec"]), Ok(vec!["auto", "model2vec", "auto"]));
    assert_eq!(
        with(&["--profile", "transformers,b=auto", "--profile", "org/z=cross-encoder"]),
        Ok(vec!["transformers", "auto", "cross-encoder"])
    );
    assert_eq!(with(&["--profile", "./y=model2vec"]), Ok(vec!["auto", "model2vec", "auto"]));
    let error = with(&["--profile", "c=onnx"]).expect_err("no such model");
    assert!(error.message().contains("names the model 'c'") && error.message().contains("--model c="), "{error}");
    for wrong in ["b=none", "=onnx", "b="] {
        assert!(Cli::try_parse_from(["text2vec-sidecar", "--model", "b=y", "--profile", wrong]).is_err(), "{wrong}");
    }
    let served = settings(&[], &["--model", "a=x,b=y", "--profile", "b=model2vec"]).expect("settings");
    assert_eq!(line(&served, "profile"), ("b=model2vec".to_owned(), "--profile".to_owned()));
}

/// `MODEL2VEC_INFERENCE_API` is understood as `TRANSFORMERS_INFERENCE_API` is, which goes before it.
#[test]
fn the_variables_of_text2vec_model2vec_are_understood() {
    let (own, other) = ("MODEL2VEC_INFERENCE_API", "TRANSFORMERS_INFERENCE_API");
    let forwards = settings(&[(own, "http://m"), ("MODEL2VEC_WAIT_FOR_STARTUP", "false")], &[]).expect("settings");
    assert_eq!(line(&forwards, "query-upstream"), ("http://m".to_owned(), own.to_owned()));
    let wait = line(&forwards, "upstream-wait");
    assert_eq!(wait, ("false".to_owned(), "MODEL2VEC_WAIT_FOR_STARTUP".to_owned()));
    let beside = settings(&[(own, "http://m"), (other, "http://t")], &[]).expect("settings");
    assert_eq!(line(&beside, "query-upstream"), ("http://t".to_owned(), other.to_owned()));
    assert!(beside.model.log.warnings[0].contains("--upstream model2vec="), "{:?}", beside.model.log.warnings);
    let same = settings(&[(own, "http://t"), (other, "http://t")], &[]).expect("settings");
    assert!(same.model.log.warnings.is_empty());
    let model = settings(&[(own, "http://m")], &["--model", "x"]).expect("settings");
    assert!(model.model.log.warnings[0].starts_with(own), "{:?}", model.model.log.warnings);
}

#[test]
fn several_models_are_named_in_order() {
    let read = |arguments: &[&str]| {
        let arguments = ["text2vec-sidecar"].iter().chain(arguments);
        let models = models(&Cli::parse_from(arguments).serve.model, &ReferenceEnv::default());
        models.map(|models| models.into_iter().map(|model| (model.name, model.source)).collect::<Vec<_>>())
    };
    let named = |name: &str, source: &str| (Some(name.to_owned()), source.to_owned());
    let models = read(&["--model", "a=/m/a", "--model", "org/b,c.1=./d=e", "--model", "./f=g"]);
    let unnamed = |source: &str| (None, source.to_owned());
    assert_eq!(models, Ok(vec![named("a", "/m/a"), unnamed("org/b"), named("c.1", "./d=e"), unnamed("./f=g")]));
    assert!(read(&["--model", "a=x,a=y"]).is_err());
    for name in ["BAAI/bge-small-en-v1.5", "nomic-embed-text:v1.5", "a/b/c:latest", "text-embedding-3-small", "1"] {
        assert_eq!(read(&["--model", &format!("{name}=DIR")]), Ok(vec![named(name, "DIR")]));
    }
    for path in ["./a=b/dir", "/a=b", "../a=b", "~/a=b", ".=b"] {
        assert_eq!(read(&["--model", path]), Ok(vec![unnamed(path)]));
    }
}

#[test]
fn a_name_that_no_caller_could_use_is_refused_with_what_it_may_hold() {
    let message = |model: &str| {
        let arguments = Cli::parse_from(["text2vec-sidecar".to_owned(), format!("--model={model}")]);
        models(&arguments.serve.model, &ReferenceEnv::default()).expect_err(model).message().to_owned()
    };
    let long = format!("{}=DIR", "a".repeat(MAX_NAME + 1));
    for model in [
        "my model=DIR",
        "=DIR",
        "a//b=DIR",
        "a/=DIR",
        "a/../b=DIR",
        "a:=DIR",
        ":a=DIR",
        "a:b:c=DIR",
        "a:b/c=DIR",
        "ä=DIR",
        "C:\\a=b",
        "C:/a=b",
        "a?b=DIR",
        "-a=DIR",
        &long,
    ] {
        let message = message(model);
        assert!(message.contains("cannot be a name") && message.contains("begins with / or ./"), "{model}: {message}");
    }
    assert!(message("a=").contains("nothing is behind '='"));
}

#[test]
fn a_directory_is_not_taken_for_a_name() {
    let dir = tempfile::Builder::new().prefix("lr=0.1").tempdir_in("target").expect("a directory");
    let name = format!("target/{}", dir.path().file_name().expect("a name").to_string_lossy());
    let error = ModelChoice::read(&name).expect_err("either may be meant");
    assert!(error.message().contains(&format!("write ./{name}")), "{error}");
    assert_eq!(ModelChoice::read(&format!("./{name}")), Ok(ModelChoice::unnamed(format!("./{name}"))));
}

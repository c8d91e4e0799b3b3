//! What is read of model directories of every age.

use super::*;

fn description(config: Value) -> ModelDescription {
    ModelDescription {
        dir: PathBuf::new(),
        config: config.as_object().cloned().unwrap_or_default(),
        tokenizer_limit: None,
        pipeline: None,
        prompts: BTreeMap::new(),
        default_prompt_name: None,
        max_seq_length: None,
        do_lower_case: false,
        markers: Markers::default(),
    }
}

#[test]
fn auto_prefers_markers_then_hints_then_the_published_image() {
    let id = Some("sentence-transformers/all-MiniLM-L6-v2");
    let hints = ProfileHints { onnx_runtime: true, sentence_transformers: true, image: Some(Image::Transformers) };
    let mut model = description(serde_json::json!({"model_type": "bert"}));
    model.pipeline = Some(Pipeline::default());
    assert_eq!(model.auto_profile(ProfileHints::default(), None).0, Profile::SentenceTransformers);
    assert_eq!(model.auto_profile(ProfileHints::default(), id).0, Profile::Transformers);
    assert_eq!(model.auto_profile(hints, id).0, Profile::Onnx);
    model.markers.model_name = Some("x".into());
    assert_eq!(model.auto_profile(hints, id).0, Profile::SentenceTransformers);
    model.markers.onnx_runtime = true;
    assert_eq!(model.auto_profile(ProfileHints::default(), id).0, Profile::Onnx);
    let bare = description(serde_json::json!({"model_type": "bert"}));
    assert_eq!(bare.auto_profile(ProfileHints::default(), Some("me/mine")).0, Profile::Transformers);
}

/// The reference's recipe for a model of one's own is `COPY ./my-model /app/models/model`, without marker files; its
/// container then knows two vectorizers, and takes the one with sentences for all but T5.
#[test]
fn a_model_put_into_the_image_is_served_as_the_reference_does() {
    let in_image = ProfileHints { image: Some(Image::Transformers), ..ProfileHints::default() };
    let mut model = description(serde_json::json!({"model_type": "bert"}));
    model.pipeline = Some(Pipeline::default());
    assert_eq!(model.auto_profile(in_image, None).0, Profile::Transformers);
    let asked = ProfileHints { sentence_transformers: true, ..in_image };
    assert_eq!(model.auto_profile(asked, None).0, Profile::SentenceTransformers);
    // Downloaded there by this program, a published model keeps the profile of its image.
    let mpnet = Some("sentence-transformers/all-mpnet-base-v2");
    assert_eq!(model.auto_profile(in_image, mpnet).0, Profile::SentenceTransformers);
    model.markers.model_name = Some("x".into());
    assert_eq!(model.auto_profile(in_image, None).0, Profile::SentenceTransformers);
    let mut t5 = description(serde_json::json!({"model_type": "t5"}));
    t5.pipeline = Some(Pipeline::default());
    assert_eq!(t5.auto_profile(in_image, None).0, Profile::SentenceTransformers);
}

#[test]
fn prompts_follow_the_task_and_fall_back_to_the_default() {
    let mut model = description(serde_json::json!({}));
    assert_eq!((model.query_prompt(), model.document_prompt()), (None, None));
    model.prompts = [("query", "Q: "), ("passage", "P: "), ("corpus", "C: "), ("std", "S: ")]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into();
    assert_eq!((model.query_prompt(), model.document_prompt()), (Some("Q: "), Some("P: ")));
    model.prompts.remove("query");
    model.default_prompt_name = Some("std".into());
    assert_eq!(model.query_prompt(), Some("S: "));
    model.default_prompt_name = Some("gone".into());
    assert_eq!(model.query_prompt(), None);
}

#[test]
fn position_tables_behind_the_padding_index_are_shorter() {
    let config =
        |kind: &str| serde_json::json!({"model_type": kind, "max_position_embeddings": 514, "pad_token_id": 1});
    assert_eq!(description(config("xlm-roberta")).usable_positions(), Some(512));
    assert_eq!(description(config("bert")).usable_positions(), Some(514));
    assert_eq!(description(config("mpnet")).usable_positions(), Some(512));
    assert_eq!(description(serde_json::json!({"model_type": "t5"})).usable_positions(), None);
    assert_eq!(description(serde_json::json!({"model_type": "dpr"})).usable_positions(), Some(512));
}

#[test]
fn a_model_without_a_type_is_known_by_its_architecture() {
    let kind = |config: Value| description(config).model_type().to_owned();
    assert_eq!(kind(serde_json::json!({"model_type": "bert", "architectures": ["T5Model"]})), "bert");
    for (architecture, family) in [
        ("BertModel", "bert"),
        ("DistilBertForMaskedLM", "distilbert"),
        ("RobertaModel", "roberta"),
        ("XLMRobertaModel", "xlm-roberta"),
        ("MPNetForMaskedLM", "mpnet"),
        ("T5ForConditionalGeneration", "t5"),
        ("DPRQuestionEncoder", "dpr"),
        ("StaticModel", "model2vec"),
        ("GPT2Model", ""),
    ] {
        assert_eq!(kind(serde_json::json!({"architectures": [architecture]})), family);
    }
    assert_eq!(kind(serde_json::json!({})), "");
}

#[test]
fn pooling_files_of_every_age_are_understood() {
    use PoolingMode::{Cls, LastToken, Max, Mean, MeanSqrtLen, WeightedMean};
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("config.json");
    let read = |config: Value| {
        std::fs::write(&path, config.to_string()).expect("write");
        read_pooling(&path)
    };
    let off = || serde_json::json!({"pooling_mode_mean_tokens": false});
    for (key, mode) in [
        ("pooling_mode_cls_token", Cls),
        ("pooling_mode_max_tokens", Max),
        ("pooling_mode_mean_sqrt_len_tokens", MeanSqrtLen),
        ("pooling_mode_weightedmean_tokens", WeightedMean),
        ("pooling_mode_lasttoken", LastToken),
    ] {
        let mut config = off();
        config[key] = true.into();
        assert_eq!(read(config), Ok(vec![mode]));
    }
    // The mean is on unless it is switched off.
    assert_eq!(read(serde_json::json!({"word_embedding_dimension": 8})), Ok(vec![Mean]));
    let two = serde_json::json!({"pooling_mode_lasttoken": true, "pooling_mode_cls_token": true});
    assert_eq!(read(two), Ok(vec![Cls, Mean, LastToken]));
    assert_eq!(read(serde_json::json!({"pooling_mode": "CLS"})), Ok(vec![Cls]));
    for bad in [
        off(),
        serde_json::json!({"pooling_mode": "median"}),
        serde_json::json!({"pooling_mode_cls_token": "yes"}),
        serde_json::json!({"include_prompt": false}),
    ] {
        assert!(read(bad.clone()).is_err(), "{bad}");
    }
    assert_eq!(read_pooling(&dir.path().join("missing.json")), Ok(vec![Mean]));
}

#[test]
fn old_layouts_keep_the_transformer_in_a_folder() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("create");
        std::fs::write(path, text).expect("write");
    };
    let modules = |body: &str, rest: &str| {
        format!(r#"[{{"path":"{body}","type":"sentence_transformers.models.Transformer"}}{rest}]"#)
    };
    let dense = r#",{"path":"2_Dense","type":"sentence_transformers.models.Dense"}"#;
    let normalize = r#",{"path":"3_Normalize","type":"sentence_transformers.models.Normalize"}"#;
    write("modules.json", &modules("0_Transformer", dense));
    write("0_Transformer/config.json", r#"{"model_type":"roberta"}"#);
    write("0_Transformer/sentence_roberta_config.json", r#"{"max_seq_length":96,"do_lower_case":true}"#);
    let read = || ModelDescription::read(dir.path(), dir.path());
    let model = read().expect("a model");
    assert_eq!((model.dir, model.max_seq_length), (dir.path().join("0_Transformer"), Some(96)));
    assert!(model.do_lower_case);
    assert_eq!(model.pipeline.map(|pipeline| pipeline.dense), Some(vec![dir.path().join("2_Dense")]));
    for (body, rest) in [("../elsewhere", ""), ("/etc", ""), ("0_Transformer", &*format!("{normalize}{dense}"))] {
        write("modules.json", &modules(body, rest));
        assert!(read().is_err(), "{body} {rest}");
    }
}

#[test]
fn only_the_exact_text_true_counts_in_a_marker_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for (text, expected) in [("true", true), ("True", false), ("true\n", false), ("", false)] {
        std::fs::write(dir.path().join("use_query_passage_prefixes"), text).expect("write");
        assert_eq!(Markers::read(dir.path()).use_query_passage_prefixes, Some(expected), "{text:?}");
    }
}

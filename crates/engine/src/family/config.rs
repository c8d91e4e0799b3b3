//! `config.json`, read key by key.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use text2vec_kernel::{Activation, Rotary};

/// Most layers of a model.
const MOST_LAYERS: usize = 1 << 12;
/// Most heads of a layer.
const MOST_HEADS: usize = (1 << 10) - 1;
/// What a number may be that others are divided by, or that powers are taken of.
const NUMBERS: std::ops::RangeInclusive<f64> = 1e-9..=1e12;
/// Most columns of a head that is turned.
const WIDEST_HEAD: usize = 1 << 10;

/// `config.json`, read key by key. What it leaves out has the family's default, as in transformers' configurations: the
/// files of some models hold a few keys only.
#[derive(Debug)]
pub struct Config<'a>(pub &'a Map<String, Value>);

impl Config<'_> {
    /// A positive number.
    ///
    /// # Errors
    /// `Unusable` if something else stands there.
    pub fn count(&self, key: &str, default: usize) -> Result<usize> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.as_u64() {
                Some(count) if (1..=u64::from(u32::MAX)).contains(&count) => Ok(count as usize),
                _ => Err(Error::unusable(format!("config.json: {key} must be a positive number, got {value}"))),
            },
        }
    }

    /// A number of layers: what is made for each is made before its tensors are asked for.
    ///
    /// # Errors
    /// `Unusable` if something else stands there, or more than any model has.
    pub fn layers(&self, key: &str, default: usize) -> Result<usize> {
        self.at_most(key, default, MOST_LAYERS)
    }

    /// A number of heads, likewise.
    ///
    /// # Errors
    /// As [`Config::layers`].
    pub fn heads(&self, key: &str, default: usize) -> Result<usize> {
        self.at_most(key, default, MOST_HEADS)
    }

    fn at_most(&self, key: &str, default: usize, most: usize) -> Result<usize> {
        match self.count(key, default)? {
            count if count <= most => Ok(count),
            count => Err(Error::unusable(format!("config.json: {key} is {count}, but {most} is the most"))),
        }
    }

    /// A number of things of which there may be none.
    ///
    /// # Errors
    /// `Unusable` if something else than such a number stands there.
    pub fn count_or_none(&self, key: &str) -> Result<Option<usize>> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) if value.as_u64() == Some(0) => Ok(None),
            Some(_) => self.count(key, 1).map(Some),
        }
    }

    /// A token's id, which may be 0.
    ///
    /// # Errors
    /// `Unusable` if something else stands there.
    pub fn id(&self, key: &str, default: u32) -> Result<u32> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| Error::unusable(format!("config.json: {key} must be a token's id, got {value}"))),
        }
    }

    /// A norm's epsilon.
    ///
    /// # Errors
    /// `Unusable` for what is no small number.
    pub fn epsilon(&self, key: &str, default: f64) -> Result<f32> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default as f32),
            Some(value) => match value.as_f64().filter(|epsilon| (0.0..=1.0).contains(epsilon)) {
                Some(epsilon) => Ok(epsilon as f32),
                None => Err(Error::unusable(format!("config.json: {key} must be a number from 0 to 1, got {value}"))),
            },
        }
    }

    /// A positive number, whole or not.
    ///
    /// # Errors
    /// `Unusable` if something else stands there.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_f64().filter(|number| NUMBERS.contains(number)).ok_or_else(|| {
                Error::unusable(format!("config.json: {key} must be a number greater than 0, got {value}"))
            }),
        }
    }

    /// Yes or no.
    ///
    /// # Errors
    /// `Unusable` if something else stands there.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(Error::unusable(format!("config.json: {key} must be true or false, got {value}"))),
        }
    }

    /// Refuses a model of which one of these keys is true.
    ///
    /// # Errors
    /// `Unusable`, with the key's name.
    pub fn without(&self, keys: &[&str]) -> Result<()> {
        for key in keys {
            if self.flag(key, false)? {
                return Err(Error::unusable(format!("config.json: {key} is true, which is not supported")));
            }
        }
        Ok(())
    }

    /// An object in the configuration, if there is one.
    ///
    /// # Errors
    /// `Unusable` if something else stands there.
    pub fn object(&self, key: &str) -> Result<Option<Config<'_>>> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Config(object))),
            Some(value) => Err(Error::unusable(format!("config.json: {key} must be an object, got {value}"))),
        }
    }

    /// The rotary positions of heads of so many columns, under today's key `rope_parameters` (of this `kind` of layer, where it
    /// has several) or under those of older files: the base's own, and `rope_scaling`.
    ///
    /// # Errors
    /// `Unusable` for numbers that make no sense and for a scaling that is not supported.
    pub fn rotary(&self, columns: usize, kind: Option<&str>, (base_key, base): (&str, f64)) -> Result<Rotary> {
        if self.0.get("partial_rotary_factor").and_then(Value::as_f64).is_some_and(|part| part != 1.0) {
            return Err(Error::unusable("config.json: partial_rotary_factor is not 1, which is not supported"));
        }
        let parameters = self.object("rope_parameters")?;
        let of_kind = match (&parameters, kind) {
            (Some(all), Some(kind)) => all.object(kind)?,
            _ => None,
        };
        match of_kind.as_ref().or(parameters.as_ref()) {
            Some(given) => given.scaled(given.number("rope_theta", self.number(base_key, base)?)?, columns, self),
            None => {
                let base = self.number(base_key, base)?;
                match self.object("rope_scaling")? {
                    Some(scaling) => scaling.scaled(base, columns, self),
                    None => unscaled(base, columns),
                }
            }
        }
    }

    /// The frequencies under a scaling, of which this is the object, in the configuration `all`.
    fn scaled(&self, base: f64, columns: usize, all: &Config<'_>) -> Result<Rotary> {
        if self.0.get("mixed_b").is_some_and(|value| !value.is_null()) {
            return Err(Error::unusable("config.json: mixed_b of rope_scaling is not supported"));
        }
        let kind = match self.word("rope_type", "") {
            "" => self.word("type", "default"),
            kind => kind,
        };
        let rotary = unscaled(base, columns)?;
        let by = |rotary: Rotary, factor: f64| Rotary {
            frequencies: rotary.frequencies.iter().map(|frequency| (f64::from(*frequency) / factor) as f32).collect(),
            ..rotary
        };
        match kind {
            "default" => Ok(rotary),
            "linear" => Ok(by(rotary, self.number("factor", 1.0)?)),
            // As GTE has it, at every length.
            "ntk" => {
                let factor = self.number("factor", 1.0)?;
                Ok(by(unscaled(base * factor, columns)?, factor.powf(2.0 / columns as f64)))
            }
            "llama3" => self.llama3(rotary, all),
            other => Err(Error::unusable(format!(
                "config.json: rotary positions of the type '{other}' are not supported: default, linear, ntk and llama3 are"
            ))),
        }
    }

    /// Frequencies as Llama 3.1 has them: those that turn round often within the length it was trained with first stay, those
    /// that do so less than once are divided, and between them there is a slope.
    fn llama3(&self, rotary: Rotary, all: &Config<'_>) -> Result<Rotary> {
        let needed = |key: &str| match self.0.contains_key(key) {
            true => self.number(key, 1.0),
            false => Err(Error::unusable(format!("config.json: rotary positions of the type llama3 need {key}"))),
        };
        let (factor, low, high) = (needed("factor")?, needed("low_freq_factor")?, needed("high_freq_factor")?);
        let original = "original_max_position_embeddings";
        let length = match (all.0.contains_key(original), self.0.contains_key(original)) {
            (true, _) => all.number(original, 1.0)?,
            (false, true) => self.number(original, 1.0)?,
            (false, false) => all.number("max_position_embeddings", 2048.0)?,
        };
        if low >= high {
            return Err(Error::unusable(format!(
                "config.json: low_freq_factor of the rotary positions is {low}, which must be less than high_freq_factor, {high}"
            )));
        }
        let scaled = |frequency: &f32| {
            let frequency = f64::from(*frequency);
            let rounds = length * frequency / std::f64::consts::TAU;
            let kept = ((rounds - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 - kept) * frequency / factor + kept * frequency) as f32
        };
        Ok(Rotary { frequencies: rotary.frequencies.iter().map(scaled).collect(), ..rotary })
    }

    /// A word.
    pub fn word(&self, key: &str, default: &'static str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or(default)
    }

    /// What `layer_types` says of each layer: whether it has a window. `None` where it says nothing.
    ///
    /// # Errors
    /// `Unusable` for other kinds of layers, and for more or fewer than there are layers.
    pub fn windowed_layers(&self, layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(kinds) = self.0.get("layer_types").filter(|kinds| !kinds.is_null()) else { return Ok(None) };
        let windowed = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(Error::unusable(format!("config.json: layer_types names {kind}, which is not supported"))),
        };
        let kinds: Vec<bool> = kinds.as_array().into_iter().flatten().map(windowed).collect::<Result<_>>()?;
        match kinds.len() == layers {
            true => Ok(Some(kinds)),
            false => Err(Error::unusable(format!(
                "config.json: layer_types names {} layers, but num_hidden_layers is {layers}",
                kinds.len()
            ))),
        }
    }

    /// The activation that a word means.
    ///
    /// # Errors
    /// `Unusable` for one that is not supported.
    pub fn activation(&self, key: &str, default: &'static str) -> Result<Activation> {
        activation(self.word(key, default))
    }

    /// Whether positions are looked up in a table and added, as all models of the families here have it.
    ///
    /// # Errors
    /// `Unusable` if they are not.
    pub fn absolute_positions(&self) -> Result<()> {
        match self.word("position_embedding_type", "absolute") {
            "absolute" => Ok(()),
            other => Err(Error::unusable(format!("config.json: positions of the type '{other}' are not supported"))),
        }
    }
}

/// The usual rotary positions of heads of so many columns.
///
/// # Errors
/// `Unusable` if so many cannot be turned in pairs.
pub fn unscaled(base: f64, columns: usize) -> Result<Rotary> {
    match columns > 0 && columns.is_multiple_of(2) && columns <= WIDEST_HEAD {
        true => Ok(Rotary::of_base(base, columns)),
        false => Err(Error::unusable(format!(
            "config.json: heads of {columns} columns cannot be turned in pairs: an even number up to {WIDEST_HEAD} can"
        ))),
    }
}

/// The activation by its name in transformers.
///
/// # Errors
/// `Unusable` for one that is not supported.
pub fn activation(name: &str) -> Result<Activation> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(Error::unusable(format!("config.json: the activation '{other}' is not supported"))),
    }
}

//! The `Dense` module of sentence-transformers: one linear layer after pooling.

use half::{bf16, f16};
use serde_json::{Map, Value};

use super::files::{ModelDir, model};
use super::fingerprint::Hasher;
use crate::error::{Error, Result};

const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_CAP: u64 = 1 << 30;

/// What follows the linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activation {
    Identity,
    Tanh,
    Relu,
}

/// A linear layer with its activation.
#[derive(Debug)]
pub(super) struct Dense {
    inputs: usize,
    /// One row of `inputs` weights per output.
    weights: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
}

impl Dense {
    pub(super) fn read(
        dir: &ModelDir,
        folder: &str,
        inputs: usize,
        hasher: &mut Hasher,
    ) -> Result<Self> {
        let config_name = format!("{folder}/config.json");
        let config = dir.json(&config_name)?.unwrap_or_default();
        let activation = activation(&config).map_err(|found| {
            let why = format!("asks for activation {found}: Identity, Tanh and ReLU are known");
            model(dir.root().join(&config_name), why)
        })?;
        let name = format!("{folder}/{WEIGHTS}");
        let path = dir.root().join(&name);
        let bytes = dir.read(&name, WEIGHTS_CAP)?.ok_or_else(|| {
            model(&path, "there is no such file: save the model again as safetensors")
        })?;
        hasher.text(&format!("{activation:?}"));
        hasher.bytes(&bytes);
        let wrong = |why: String| -> Error { model(&path, why) };
        let weights = tensor(&bytes, "linear.weight").map_err(&wrong)?;
        let weights = weights.ok_or_else(|| wrong("holds no linear.weight".into()))?;
        let bias = tensor(&bytes, "linear.bias").map_err(&wrong)?;
        let outputs = weights.len() / inputs.max(1);
        let bias = bias.unwrap_or_else(|| vec![0.0; outputs]);
        if inputs == 0 || outputs == 0 || weights.len() != inputs * outputs || bias.len() != outputs
        {
            return Err(wrong(format!(
                "holds {} weights and {} biases, which fit no layer taking {inputs} inputs",
                weights.len(),
                bias.len()
            )));
        }
        Ok(Self { inputs, weights, bias, activation })
    }

    pub(super) fn outputs(&self) -> usize {
        self.bias.len()
    }

    pub(super) fn apply(&self, vector: &[f32]) -> Vec<f32> {
        let rows = self.weights.chunks_exact(self.inputs).zip(&self.bias);
        let linear = rows.map(|(row, bias)| {
            // In f64, so that the order of addition does not show.
            let dot: f64 = row.iter().zip(vector).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            (dot + f64::from(*bias)) as f32
        });
        linear
            .map(|x| match self.activation {
                Activation::Identity => x,
                Activation::Tanh => x.tanh(),
                Activation::Relu => x.max(0.0),
            })
            .collect()
    }
}

fn activation(config: &Value) -> Result<Activation, String> {
    let name = config.get("activation_function").and_then(Value::as_str);
    // Without the key, the class's default applies.
    match name.unwrap_or("torch.nn.modules.activation.Tanh").rsplit('.').next() {
        Some("Identity") => Ok(Activation::Identity),
        Some("Tanh") => Ok(Activation::Tanh),
        Some("ReLU") => Ok(Activation::Relu),
        other => Err(format!("{other:?}")),
    }
}

/// One tensor of a safetensors file as f32: eight bytes of length, that much
/// JSON giving type and byte range of each tensor, then the bytes.
fn tensor(file: &[u8], name: &str) -> Result<Option<Vec<f32>>, String> {
    let cut = || "is cut short or is not a safetensors file: save it again".to_string();
    let (length, rest) = file.split_first_chunk::<8>().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header: Map<String, Value> = serde_json::from_slice(header).map_err(|_| cut())?;
    let Some(entry) = header.get(name) else { return Ok(None) };
    let offset = |at: usize| {
        let value = entry.get("data_offsets")?.get(at)?.as_u64()?;
        usize::try_from(value).ok()
    };
    let range = offset(0).zip(offset(1)).ok_or_else(cut)?;
    let bytes = data.get(range.0..range.1).ok_or_else(cut)?;
    match entry.get("dtype").and_then(Value::as_str) {
        Some("F32") => Ok(Some(words(bytes).map(f32::from_le_bytes).collect())),
        Some("F16") => Ok(Some(words(bytes).map(|b| f16::from_le_bytes(b).to_f32()).collect())),
        Some("BF16") => Ok(Some(words(bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect())),
        other => Err(format!("holds {name} as {other:?}; F32, F16 and BF16 are read")),
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn reads_a_tensor_and_survives_every_cut() {
        let header = r#"{"linear.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
        let data = [1.5_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat();
        let whole = file(header, &data);
        assert_eq!(tensor(&whole, "linear.weight"), Ok(Some(vec![1.5, -2.0])));
        assert_eq!(tensor(&whole, "linear.bias"), Ok(None));
        for cut in 0..whole.len() {
            assert!(tensor(&whole[..cut], "linear.weight").is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_range_outside_the_file_is_an_error() {
        for range in ["[0,99]", "[8,0]", "[18446744073709551615,0]", "[]"] {
            let header = format!(r#"{{"linear.weight":{{"dtype":"F32","data_offsets":{range}}}}}"#);
            assert!(tensor(&file(&header, &[0; 8]), "linear.weight").is_err(), "{range}");
        }
    }

    #[test]
    fn applies_weights_bias_and_activation() {
        let dense = Dense {
            inputs: 2,
            weights: vec![1.0, 2.0, -1.0, 0.0],
            bias: vec![0.5, 0.0],
            activation: Activation::Relu,
        };
        assert_eq!(dense.apply(&[1.0, 1.0]), [3.5, 0.0]);
    }
}

//! The `Dense` module of sentence-transformers: one linear layer after pooling.

use super::files::{ModelDir, model};
use super::fingerprint::Hasher;
use super::modules::inside;
use super::object::Object;
use super::safetensors::Tensors;
use crate::error::Result;

/// What follows the linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activation {
    Identity,
    Tanh,
    Relu,
    Gelu,
    Silu,
    Sigmoid,
}

/// A linear layer with its activation.
#[derive(Debug)]
pub(super) struct Dense {
    inputs: usize,
    /// One row of `inputs` weights per output.
    weights: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
    residual: Option<Residual>,
}

/// What `use_residual` adds to the output.
#[derive(Debug)]
enum Residual {
    /// The input itself.
    Input,
    /// The input through another linear map, one row per output.
    Projected(Vec<f32>),
}

impl Dense {
    pub(super) fn read(
        dir: &ModelDir,
        folder: &str,
        inputs: usize,
        hasher: &mut Hasher,
    ) -> Result<Self> {
        let config = Object::read(dir, &inside(folder, "config.json"))?;
        let activation = Activation::read(&config)?;
        hasher.text(&format!("dense {activation:?}"));
        let file = Tensors::read(dir, &inside(folder, "model.safetensors"), hasher)?;
        let weight = file.need("linear.weight", 2)?;
        let outputs = weight.shape[0];
        if inputs == 0 || outputs == 0 || weight.shape[1] != inputs {
            let why = format!(
                "holds a layer of shape {:?}, and {inputs} components come in",
                weight.shape
            );
            return Err(file.wrong(why));
        }
        let bias = match file.floats("linear.bias")? {
            None => vec![0.0; outputs],
            Some(bias) if bias.shape == [outputs] => bias.values,
            Some(bias) => {
                let why = format!("holds biases {:?} for {outputs} outputs", bias.shape);
                return Err(file.wrong(why));
            }
        };
        let residual = Residual::read(&config, &file, inputs, outputs)?;
        hasher.text(if residual.is_some() { "residual" } else { "" });
        Ok(Self { inputs, weights: weight.values, bias, activation, residual })
    }

    pub(super) fn outputs(&self) -> usize {
        self.bias.len()
    }

    pub(super) fn apply(&self, vector: &[f32]) -> Vec<f32> {
        let rows = self.weights.chunks_exact(self.inputs).zip(&self.bias);
        let mut out: Vec<f32> = rows
            .map(|(row, &bias)| self.activation.apply((dot(row, vector) + f64::from(bias)) as f32))
            .collect();
        match &self.residual {
            None => {}
            Some(Residual::Input) => out.iter_mut().zip(vector).for_each(|(o, x)| *o += x),
            Some(Residual::Projected(weights)) => {
                let rows = weights.chunks_exact(self.inputs);
                out.iter_mut().zip(rows).for_each(|(o, row)| *o += dot(row, vector) as f32);
            }
        }
        out
    }
}

impl Residual {
    fn read(
        config: &Object,
        file: &Tensors,
        inputs: usize,
        outputs: usize,
    ) -> Result<Option<Self>> {
        if !config.boolean("use_residual")?.unwrap_or(false) {
            return Ok(None);
        }
        if inputs == outputs {
            return Ok(Some(Self::Input));
        }
        let weight = file.need("residual.weight", 2)?;
        if weight.shape != [outputs, inputs] {
            let why = format!("holds residual.weight {:?}, not of the layer's shape", weight.shape);
            return Err(file.wrong(why));
        }
        Ok(Some(Self::Projected(weight.values)))
    }
}

impl Activation {
    /// By class name; the configuration writes the whole path of the class.
    fn read(config: &Object) -> Result<Self> {
        // Without the key, the class's default applies.
        let name = config.text("activation_function")?;
        let name = name.as_deref().unwrap_or("torch.nn.modules.activation.Tanh");
        Ok(match name.rsplit('.').next().unwrap_or(name) {
            "Identity" => Self::Identity,
            "Tanh" => Self::Tanh,
            "ReLU" => Self::Relu,
            "GELU" => Self::Gelu,
            "SiLU" => Self::Silu,
            "Sigmoid" => Self::Sigmoid,
            _ => {
                let known = "Identity, Tanh, ReLU, GELU, SiLU and Sigmoid are known";
                return Err(config.wrong(&format!("asks for activation {name:?}: {known}")));
            }
        })
    }

    fn apply(self, x: f32) -> f32 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let wide = f64::from(x);
        match self {
            Self::Identity => x,
            Self::Tanh => x.tanh(),
            Self::Relu => x.max(0.0),
            Self::Gelu => (0.5 * wide * (1.0 + erf(wide / std::f64::consts::SQRT_2))) as f32,
            Self::Silu => (wide * sigmoid(wide)) as f32,
            Self::Sigmoid => sigmoid(wide) as f32,
        }
    }
}

/// In f64, so that the order of addition does not show.
fn dot(row: &[f32], vector: &[f32]) -> f64 {
    row.iter().zip(vector).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum()
}

/// The error function, by the series of Abramowitz and Stegun, 7.1.6: all its terms
/// have one sign, so none is lost by cancelling.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
        if term.abs() <= sum.abs() * 1e-17 {
            break;
        }
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// Layer norm over the components of a vector.
#[derive(Debug)]
pub(super) struct LayerNorm {
    /// Weight and bias of each component; `None` for weight 1 and bias 0.
    affine: Option<(Vec<f32>, Vec<f32>)>,
}

impl LayerNorm {
    /// `PyTorch`'s default, which the module never changes.
    const EPSILON: f64 = 1e-5;

    /// Without weights, as `torch.nn.functional.layer_norm` is usually called.
    pub(super) fn plain() -> Self {
        Self { affine: None }
    }

    pub(super) fn read(
        dir: &ModelDir,
        folder: &str,
        dims: usize,
        hasher: &mut Hasher,
    ) -> Result<Self> {
        hasher.text("layer norm");
        let name = inside(folder, "model.safetensors");
        let file = Tensors::read(dir, &name, hasher)?;
        let (weight, bias) = (file.need("norm.weight", 1)?, file.need("norm.bias", 1)?);
        if weight.shape != [dims] || bias.shape != [dims] {
            let (w, b) = (weight.shape[0], bias.shape[0]);
            let why = format!("holds {w} weights and {b} biases, and {dims} components come in");
            return Err(model(dir.root().join(name), why));
        }
        Ok(Self { affine: Some((weight.values, bias.values)) })
    }

    pub(super) fn apply(&self, vector: &mut [f32]) {
        let count = vector.len().max(1) as f64;
        let mean = vector.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = vector.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (variance + Self::EPSILON).sqrt();
        for x in vector.iter_mut() {
            *x = ((f64::from(*x) - mean) * scale) as f32;
        }
        if let Some((weight, bias)) = &self.affine {
            let pairs = weight.iter().zip(bias);
            vector.iter_mut().zip(pairs).for_each(|(x, (w, b))| *x = *x * w + b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(residual: Option<Residual>) -> Dense {
        Dense {
            inputs: 2,
            weights: vec![1.0, 2.0, -1.0, 0.0],
            bias: vec![0.5, 0.0],
            activation: Activation::Relu,
            residual,
        }
    }

    #[test]
    fn applies_weights_bias_activation_and_residual() {
        assert_eq!(dense(None).apply(&[1.0, 1.0]), [3.5, 0.0]);
        assert_eq!(dense(Some(Residual::Input)).apply(&[1.0, 2.0]), [6.5, 2.0]);
        let projected = Residual::Projected(vec![1.0, 0.0, 0.0, 10.0]);
        assert_eq!(dense(Some(projected)).apply(&[1.0, 1.0]), [4.5, 10.0]);
    }

    /// Values of the error function to 15 digits, Abramowitz and Stegun, table 7.1.
    #[test]
    fn the_error_function_is_the_tables() {
        for (x, value) in [(0.5, 0.520_499_877_813_047), (2.0, 0.995_322_265_018_953)] {
            assert!((erf(x) - value).abs() < 1e-15 && (erf(-x) + value).abs() < 1e-15, "{x}");
        }
        assert!((erf(9.0) - 1.0).abs() < 1e-15 && erf(0.0).abs() < 1e-15);
    }

    #[test]
    fn layer_norm_centres_and_scales() {
        let mut vector = [1.0, 3.0];
        LayerNorm { affine: Some((vec![2.0, 1.0], vec![0.0, 5.0])) }.apply(&mut vector);
        assert!((vector[0] + 2.0).abs() < 1e-4 && (vector[1] - 6.0).abs() < 1e-4, "{vector:?}");
    }
}

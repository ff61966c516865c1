//! What an image model's directory says about preparing its pictures.
//!
//! Reads `preprocessor_config.json` (or the `image_processor` of
//! `processor_config.json`) as the Hugging Face image processors write it: resize,
//! crop, scale of the values, mean and deviation. As with text, a setting that
//! this version does not follow is an error and not ignored.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::super::files::{ModelDir, model};
use crate::error::{Error, Result};

const FILE: &str = "preprocessor_config.json";
const COMBINED_FILE: &str = "processor_config.json";

/// Largest edge a processor may ask for: 4096 squared in f32 is 192 MiB.
const MAX_EDGE: u64 = 4096;

/// Image processors whose steps are those followed here: transformers 5.23 was read. A file may
/// also name none. Others do more or something else with the same keys (`LevitImageProcessor`
/// resizes to 256/224 of what it says).
const KNOWN: [&str; 14] = [
    "beit",
    "bit",
    "blip",
    "chineseclip",
    "clip",
    "convnext",
    "deit",
    "efficientnet",
    "mobilenetv1",
    "mobilenetv2",
    "pvt",
    "siglip",
    "vit",
    "",
];

/// A filter, with the number that Pillow and the configuration files give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Nearest,
    Lanczos,
    Bilinear,
    Bicubic,
    Box,
    Hamming,
}

/// How the picture is brought to a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resize {
    /// Both edges, whatever that does to the proportions.
    Exact { width: u32, height: u32 },
    /// The shorter edge; the longer follows, up to a limit if there is one.
    Shortest { edge: u32, longest: Option<u32> },
}

/// Everything done to a picture before the graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Processor {
    pub(super) resize: Option<(Resize, Filter)>,
    /// Width and height cut from the middle, filled up with black.
    pub(super) crop: Option<(u32, u32)>,
    /// Values are multiplied by this.
    pub(super) scale: f32,
    /// Then this is subtracted, by channel.
    pub(super) mean: [f32; 3],
    /// Then they are divided by this.
    pub(super) deviation: [f32; 3],
}

impl Processor {
    /// `None` when the directory has no such file.
    pub(super) fn read(dir: &ModelDir) -> Result<Option<Self>> {
        if let Some(value) = dir.json(FILE)? {
            return Settings::new(dir.root().join(FILE), value)?.processor().map(Some);
        }
        let Some(mut value) = dir.json(COMBINED_FILE)? else { return Ok(None) };
        let Some(own) = value.get_mut("image_processor").map(Value::take) else { return Ok(None) };
        Settings::new(dir.root().join(COMBINED_FILE), own)?.processor().map(Some)
    }

    /// Width and height of every picture after processing; `None` when they follow
    /// the picture's proportions.
    pub(super) fn output_size(&self) -> Option<(u32, u32)> {
        match (self.crop, self.resize) {
            (Some(size), _) => Some(size),
            (None, Some((Resize::Exact { width, height }, _))) => Some((width, height)),
            _ => None,
        }
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resize {
            None => write!(f, "no resize")?,
            Some((Resize::Exact { width, height }, filter)) => {
                write!(f, "resize to {width}x{height} ({filter:?})")?;
            }
            Some((Resize::Shortest { edge, longest }, filter)) => {
                write!(f, "resize shortest edge to {edge} ({filter:?})")?;
                longest.map_or(Ok(()), |most| write!(f, ", longest at most {most}"))?;
            }
        }
        if let Some((width, height)) = self.crop {
            write!(f, ", centre {width}x{height}")?;
        }
        write!(f, ", scale {}, mean {:?}, deviation {:?}", self.scale, self.mean, self.deviation)
    }
}

/// The file's object, with its path for messages.
struct Settings {
    path: PathBuf,
    map: Map<String, Value>,
    /// The class that wrote it, without what differs between versions.
    class: String,
}

impl Settings {
    fn new(path: PathBuf, value: Value) -> Result<Self> {
        let Value::Object(map) = value else {
            return Err(model(path, "must hold a JSON object: export the model again"));
        };
        let named = ["image_processor_type", "feature_extractor_type"];
        let class = named.iter().find_map(|key| map.get(*key)?.as_str()).unwrap_or_default();
        let class = class.trim_end_matches("Fast").trim_end_matches("Pil");
        let class = class.trim_end_matches("ImageProcessor").trim_end_matches("FeatureExtractor");
        let class = class.to_ascii_lowercase();
        Ok(Self { path, map, class })
    }

    fn processor(&self) -> Result<Processor> {
        self.refuse_others()?;
        let crop = if self.flag("do_center_crop", false)? { Some(self.crop_size()?) } else { None };
        let mut processor =
            Processor { resize: None, crop, scale: 1.0, mean: [0.0; 3], deviation: [1.0; 3] };
        if self.flag("do_resize", true)? {
            self.add_resize(&mut processor)?;
        }
        if self.flag("do_rescale", true)? {
            processor.scale = self.number("rescale_factor")?.unwrap_or(1.0 / 255.0) as f32;
        }
        if self.flag("do_normalize", true)? {
            processor.mean = self.channels("image_mean")?;
            processor.deviation = self.channels("image_std")?;
            if processor.deviation.iter().any(|d| *d <= 0.0) {
                return Err(self.wrong("has an image_std that is not positive"));
            }
        }
        Ok(processor)
    }

    /// Steps of other processors that would change the pixels.
    fn refuse_others(&self) -> Result<()> {
        if !KNOWN.contains(&self.class.as_str()) {
            return Err(self.wrong(
                "names an image_processor_type whose steps are not known: where they are resize, \
                 crop, rescale and normalise, write CLIPImageProcessor there",
            ));
        }
        // EfficientNet's, which ALIGN uses: 1 is taken off, and values are divided once more.
        if self.flag("rescale_offset", false)? {
            return Err(self.wrong("asks for rescale_offset, which is not supported"));
        }
        if self.flag("include_top", self.class == "efficientnet")? {
            return Err(self.wrong(
                "asks for include_top (EfficientNet's default), which is not supported: a model \
                 of vectors has it false",
            ));
        }
        if self.class != "convnext" && self.number("crop_pct")?.is_some() {
            return Err(self.wrong("has a crop_pct, which only ConvNextImageProcessor follows"));
        }
        for key in ["do_pad", "do_thumbnail", "do_align_long_axis", "do_flip_channel_order"] {
            if self.flag(key, false)? {
                return Err(self.wrong(&format!("asks for {key}, which is not supported")));
            }
        }
        match self.map.get("resize_mode").and_then(Value::as_str) {
            None | Some("shortest") => Ok(()),
            Some(mode) => Err(self.wrong(&format!("asks for resize_mode {mode:?}"))),
        }
    }

    fn add_resize(&self, processor: &mut Processor) -> Result<()> {
        let filter = self.filter()?;
        let mut resize = self.size()?;
        // ConvNeXT (and ResNet, which uses its processor): small pictures are cut
        // from a larger one, by the share crop_pct; large ones are bent to a square.
        if let (Resize::Shortest { edge, .. }, true) = (resize, self.class == "convnext") {
            if edge < 384 {
                let share = self.number("crop_pct")?.unwrap_or(224.0 / 256.0);
                if !(0.1..=1.0).contains(&share) {
                    return Err(self.wrong(&format!("has crop_pct {share}, expected 0.1 to 1")));
                }
                let larger = (f64::from(edge) / share) as u32;
                resize = Resize::Shortest { edge: larger, longest: None };
                processor.crop = Some((edge, edge));
            } else {
                resize = Resize::Exact { width: edge, height: edge };
            }
        }
        processor.resize = Some((resize, filter));
        Ok(())
    }

    fn filter(&self) -> Result<Filter> {
        let usual = matches!(self.class.as_str(), "vit" | "mobilenetv1" | "mobilenetv2");
        let usual = if usual { 2 } else { 3 };
        match self.map.get("resample").filter(|v| !v.is_null()).map_or(Some(usual), Value::as_u64) {
            Some(0) => Ok(Filter::Nearest),
            Some(1) => Ok(Filter::Lanczos),
            Some(2) => Ok(Filter::Bilinear),
            Some(3) => Ok(Filter::Bicubic),
            Some(4) => Ok(Filter::Box),
            Some(5) => Ok(Filter::Hamming),
            _ => Err(self.wrong("has a resample that is no filter, 0 to 5")),
        }
    }

    fn size(&self) -> Result<Resize> {
        let missing = || self.wrong("has no size: save the image processor again");
        match self.map.get("size").ok_or_else(missing)? {
            Value::Number(n) => {
                let edge = self.edge(n.as_u64())?;
                // Old files have a number, which each class understood in its own way.
                let square = matches!(self.class.as_str(), "vit" | "deit" | "beit" | "siglip");
                Ok(if square {
                    Resize::Exact { width: edge, height: edge }
                } else {
                    Resize::Shortest { edge, longest: None }
                })
            }
            Value::Object(size) => {
                let get = |key| size.get(key).filter(|v: &&Value| !v.is_null()).map(Value::as_u64);
                match (get("width"), get("height"), get("shortest_edge"), get("longest_edge")) {
                    (Some(w), Some(h), _, _) => {
                        Ok(Resize::Exact { width: self.edge(w)?, height: self.edge(h)? })
                    }
                    (None, None, Some(edge), longest) => Ok(Resize::Shortest {
                        edge: self.edge(edge)?,
                        longest: longest.map(|most| self.edge(most)).transpose()?,
                    }),
                    _ => Err(self.wrong(
                        "has a size without width and height or shortest_edge: nothing else is \
                         supported",
                    )),
                }
            }
            Value::Array(pair) if pair.len() == 2 => Ok(Resize::Exact {
                height: self.edge(pair[0].as_u64())?,
                width: self.edge(pair[1].as_u64())?,
            }),
            other => Err(self.wrong(&format!("has size {other}"))),
        }
    }

    fn crop_size(&self) -> Result<(u32, u32)> {
        match self.map.get("crop_size") {
            Some(Value::Number(n)) => {
                let edge = self.edge(n.as_u64())?;
                Ok((edge, edge))
            }
            Some(Value::Object(size)) => {
                let get = |key| self.edge(size.get(key).and_then(Value::as_u64));
                Ok((get("width")?, get("height")?))
            }
            _ => Err(self.wrong("crops to the centre and has no crop_size")),
        }
    }

    fn edge(&self, value: Option<u64>) -> Result<u32> {
        let value = value.filter(|n| (1..=MAX_EDGE).contains(n));
        value.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
            self.wrong(&format!("has an edge that is not a whole number from 1 to {MAX_EDGE}"))
        })
    }

    fn flag(&self, key: &str, usual: bool) -> Result<bool> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(usual),
            Some(Value::Bool(b)) => Ok(*b),
            Some(v) => Err(self.wrong(&format!("has {key} = {v}, expected true or false"))),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => match v.as_f64().filter(|n| n.is_finite()) {
                Some(n) => Ok(Some(n)),
                None => Err(self.wrong(&format!("has {key} = {v}, expected a number"))),
            },
        }
    }

    fn channels(&self, key: &str) -> Result<[f32; 3]> {
        let value = self.map.get(key);
        if let Some(same) = value.and_then(Value::as_f64) {
            return Ok([same as f32; 3]);
        }
        let list = value.and_then(Value::as_array).filter(|list| list.len() == 3);
        let list = list.and_then(|list| {
            list.iter().map(|v| v.as_f64().map(|n| n as f32)).collect::<Option<Vec<_>>>()
        });
        list.and_then(|list| <[f32; 3]>::try_from(list).ok())
            .filter(|list| list.iter().all(|n| n.is_finite()))
            .ok_or_else(|| self.wrong(&format!("normalises and has no {key} of three numbers")))
    }

    fn wrong(&self, why: &str) -> Error {
        model(self.path(), why)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

//! Pixels to the values a graph is fed: resize, centre crop, scale, normalise.
//!
//! Python resizes with Pillow, whose filters widen when a picture shrinks (so that
//! every source pixel counts) and which rounds to 8 bits after each direction.
//! `fast_image_resize` does the same.

use fast_image_resize::images::{Image as Target, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::picture::Image;
use super::processor::{Filter, Processor, Resize};
use crate::error::{Error, Result};

/// Most pixels after resizing, before the crop. A strip of 1 x 16384 pixels whose
/// shorter edge is to become 224 asks for 3.7 million times 224.
const MAX_RESIZED: u64 = 64 << 20;

/// A picture as the graph takes it: `[3, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planes {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<f32>,
}

impl Processor {
    pub(super) fn apply(&self, image: &Image) -> Result<Planes> {
        let (width, height) = self.resized(image)?;
        let resized = match self.resize {
            Some((_, filter)) if (width, height) != (image.width(), image.height()) => {
                Some(resize(image, width, height, filter)?)
            }
            _ => None,
        };
        let rgb = resized.as_deref().unwrap_or(image.rgb());
        let crop = self.crop.unwrap_or((width, height));
        Ok(self.planes(rgb, (width, height), crop))
    }

    /// Width and height after resizing.
    fn resized(&self, image: &Image) -> Result<(u32, u32)> {
        let (width, height) = (image.width(), image.height());
        let (width, height) = match self.resize {
            None => (u64::from(width), u64::from(height)),
            Some((Resize::Exact { width, height }, _)) => (u64::from(width), u64::from(height)),
            Some((Resize::Shortest { edge, longest }, _)) => shortest(width, height, edge, longest),
        };
        match (u32::try_from(width), u32::try_from(height)) {
            (Ok(w), Ok(h)) if w > 0 && h > 0 && width * height <= MAX_RESIZED => Ok((w, h)),
            _ => Err(Error::invalid(
                "image",
                format!(
                    "of {}x{} pixels would be resized to {width}x{height}, more than {MAX_RESIZED} \
                     pixels: crop it first",
                    image.width(),
                    image.height()
                ),
            )),
        }
    }

    /// Cuts out the middle (filled up with black where the picture is smaller) and
    /// scales and normalises the values, channel by channel.
    fn planes(&self, rgb: &[u8], (width, height): (u32, u32), crop: (u32, u32)) -> Planes {
        let (across, down) = (Span::new(width, crop.0), Span::new(height, crop.1));
        let (crop_width, crop_height) = (crop.0 as usize, crop.1 as usize);
        let table = self.table();
        let black = [0, 1, 2].map(|channel: usize| table[channel][0]);
        let plane = crop_width * crop_height;
        let mut values = vec![0.0; 3 * plane];
        for (channel, plane) in values.chunks_exact_mut(plane).enumerate() {
            plane.fill(black[channel]);
            for row in 0..down.length {
                let from = ((down.from + row) * width as usize + across.from) * 3 + channel;
                let to = (down.to + row) * crop_width + across.to;
                let pixels = rgb[from..].iter().step_by(3);
                for (value, &pixel) in plane[to..to + across.length].iter_mut().zip(pixels) {
                    *value = table[channel][usize::from(pixel)];
                }
            }
        }
        Planes { width: crop_width, height: crop_height, values }
    }

    /// What each of the 256 values of a channel becomes.
    fn table(&self) -> [[f32; 256]; 3] {
        let mut table = [[0.0; 256]; 3];
        for (channel, row) in table.iter_mut().enumerate() {
            for (value, slot) in row.iter_mut().enumerate() {
                let scaled = value as f32 * self.scale;
                *slot = (scaled - self.mean[channel]) / self.deviation[channel];
            }
        }
        table
    }
}

/// The shorter edge becomes `edge`, the longer one what keeps the proportions,
/// rounded down.
fn shortest(width: u32, height: u32, edge: u32, longest: Option<u32>) -> (u64, u64) {
    let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
    let mut new_short = u64::from(edge);
    let mut new_long = new_short * long / short;
    if let Some(most) = longest.map(u64::from).filter(|&most| new_long > most) {
        (new_short, new_long) = (most * new_short / new_long, most);
    }
    if width <= height { (new_short, new_long) } else { (new_long, new_short) }
}

fn resize(image: &Image, width: u32, height: u32, filter: Filter) -> Result<Vec<u8>> {
    let failed = |e: &dyn std::fmt::Display| {
        Error::invalid("image", format!("{image:?} cannot be resized to {width}x{height}: {e}"))
    };
    let source = ImageRef::new(image.width(), image.height(), image.rgb(), PixelType::U8x3)
        .map_err(|e| failed(&e))?;
    let mut target = Target::new(width, height, PixelType::U8x3);
    let algorithm = match filter {
        Filter::Nearest => ResizeAlg::Nearest,
        Filter::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
        Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Filter::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Filter::Box => ResizeAlg::Convolution(FilterType::Box),
        Filter::Hamming => ResizeAlg::Convolution(FilterType::Hamming),
    };
    let options = ResizeOptions::new().resize_alg(algorithm);
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| failed(&e))?;
    Ok(target.into_vec())
}

/// Which pixels of a row (or column) go where in the cropped one.
struct Span {
    from: usize,
    to: usize,
    length: usize,
}

impl Span {
    fn new(size: u32, crop: u32) -> Self {
        let (size, crop) = (size as usize, crop as usize);
        if size >= crop {
            return Self { from: (size - crop) / 2, to: 0, length: crop };
        }
        // Where it cannot be even, the processors pad more before than after.
        Self { from: 0, to: (crop - size).div_ceil(2), length: size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_edge_is_exact_and_the_longer_rounds_down() {
        assert_eq!(shortest(640, 480, 224, None), (298, 224));
        assert_eq!(shortest(480, 640, 224, None), (224, 298));
        assert_eq!(shortest(100, 100, 64, None), (64, 64));
        assert_eq!(shortest(1000, 100, 50, Some(200)), (200, 20));
    }

    #[test]
    fn a_crop_is_centred_and_filled_up_with_black() {
        let processor = Processor {
            resize: None,
            crop: Some((3, 2)),
            scale: 1.0,
            mean: [1.0, 0.0, 0.0],
            deviation: [1.0; 3],
        };
        let image = Image::from_rgb8(1, 4, (0..12).collect()).unwrap();
        let planes = processor.apply(&image).unwrap();
        assert_eq!((planes.width, planes.height), (3, 2));
        // Rows 1 and 2 of the red channel, 3 and 6, in the middle column.
        assert_eq!(planes.values[..6], [-1.0, 2.0, -1.0, -1.0, 5.0, -1.0]);
        assert_eq!(planes.values[6..12], [0.0, 4.0, 0.0, 0.0, 7.0, 0.0]);
    }

    #[test]
    fn a_strip_is_not_blown_up_without_bound() {
        let processor = Processor {
            resize: Some((Resize::Shortest { edge: 4096, longest: None }, Filter::Bicubic)),
            crop: Some((4096, 4096)),
            scale: 1.0,
            mean: [0.0; 3],
            deviation: [1.0; 3],
        };
        let strip = Image::from_rgb8(16_000, 1, vec![0; 48_000]).unwrap();
        let refused = processor.apply(&strip).unwrap_err().to_string();
        assert!(refused.contains("crop it first"), "{refused}");
    }
}

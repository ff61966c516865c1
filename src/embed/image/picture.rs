//! Image files to pixels.
//!
//! An image file may come from anyone and claim anything, so its format is told by
//! its content, its size is checked before anything is allocated for it, and a
//! panic of a decoder becomes an error. What comes out is what Python's Pillow
//! gives for `ImageOps.exif_transpose(image).convert("RGB")`, but for grey PNG files of 16 bits:
//! Pillow 13 makes white of all but the darkest 256 of their 65 536 values, and here the 256 of
//! 8 bits stand for all of them.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Cursor, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, Pixel};
use rustix::fs::OFlags;

use super::gif::Ground;
use crate::error::{Error, Result};

/// Longest edge of an image, in pixels; one with more is refused.
pub const MAX_EDGE: u32 = 16_384;

/// Bytes of decoded pixels; an image with more is refused before it is decoded.
pub const MAX_PIXEL_BYTES: u64 = 256 << 20;

/// Bytes of an image file.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A decoded image: 8-bit RGB, upright.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    /// Opacity of each pixel, where the file has any that is not opaque.
    alpha: Option<Vec<u8>>,
}

impl Image {
    /// Reads and decodes an image file: PNG, JPEG, WebP or GIF, told by its content
    /// and not by its name. Of an animation, the first picture.
    ///
    /// # Errors
    /// `Error::Io` when it cannot be read; `Error::Invalid` when it is no image, is
    /// damaged, or has more than [`MAX_EDGE`] pixels per side or
    /// [`MAX_PIXEL_BYTES`] of pixels.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read(path)?;
        decode(&bytes).map_err(|why| invalid(&path.display(), &why))
    }

    /// Decodes an image file in memory; see [`Image::open`].
    ///
    /// # Errors
    /// `Error::Invalid`, as for [`Image::open`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes).map_err(|why| invalid(&"the image", &why))
    }

    /// An image of pixels that are at hand: rows from the top, each pixel red,
    /// green, blue.
    ///
    /// # Errors
    /// `Error::Invalid` unless there are `3 * width * height` bytes, and some.
    pub fn from_rgb8(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self> {
        let expected = (u64::from(width) * u64::from(height)).saturating_mul(3);
        if expected == 0 || expected != rgb.len() as u64 || width.max(height) > MAX_EDGE {
            let why = format!(
                "{width}x{height} pixels need {expected} bytes, got {} (at least 1, at most \
                 {MAX_EDGE} per side)",
                rgb.len()
            );
            return Err(Error::invalid("image", why));
        }
        Ok(Self { width, height, rgb, alpha: None })
    }

    /// The image on a background of one colour. Without this, transparency is
    /// dropped and whatever colour the transparent pixels have shows (black, most
    /// often), because that is what the image processors of published models do.
    #[must_use]
    pub fn over(mut self, background: [u8; 3]) -> Self {
        let Some(alpha) = self.alpha.take() else { return self };
        for (pixel, &alpha) in self.rgb.chunks_exact_mut(3).zip(&alpha) {
            for (channel, &behind) in pixel.iter_mut().zip(&background) {
                let (a, b) = (u32::from(alpha), 255 - u32::from(alpha));
                let mixed = u32::from(*channel) * a + u32::from(behind) * b;
                *channel = ((mixed + 127) / 255) as u8;
            }
        }
        self
    }

    /// Pixels per row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Red, green and blue of each pixel, rows from the top.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Whether any pixel is not opaque.
    pub fn is_transparent(&self) -> bool {
        self.alpha.is_some()
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transparent = if self.alpha.is_some() { ", transparent" } else { "" };
        write!(f, "Image({}x{}{transparent})", self.width, self.height)
    }
}

/// What an image is made from.
#[derive(Debug, Clone, Copy)]
pub enum ImageSource<'a> {
    /// A file.
    Path(&'a Path),
    /// A file's content.
    Bytes(&'a [u8]),
    /// Pixels.
    Image(&'a Image),
}

impl<'a> From<&'a Path> for ImageSource<'a> {
    fn from(path: &'a Path) -> Self {
        Self::Path(path)
    }
}

impl<'a> From<&'a PathBuf> for ImageSource<'a> {
    fn from(path: &'a PathBuf) -> Self {
        Self::Path(path)
    }
}

impl<'a> From<&'a str> for ImageSource<'a> {
    /// A path.
    fn from(path: &'a str) -> Self {
        Self::Path(Path::new(path))
    }
}

impl<'a> From<&'a [u8]> for ImageSource<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for ImageSource<'a> {
    /// As of `include_bytes!`.
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for ImageSource<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Image> for ImageSource<'a> {
    fn from(image: &'a Image) -> Self {
        Self::Image(image)
    }
}

fn invalid(what: &dyn fmt::Display, why: &str) -> Error {
    Error::invalid("image", format!("{what} {why}"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    // NONBLOCK: a FIFO must not hang the open.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|e| Error::io("open", path, e))?;
    let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if !meta.is_file() {
        return Err(invalid(&path.display(), "is not a regular file"));
    }
    if meta.len() > MAX_FILE_BYTES {
        let why = format!("has {} bytes, more than the {MAX_FILE_BYTES} allowed", meta.len());
        return Err(invalid(&path.display(), &why));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Image, String> {
    let pixels = catch_unwind(AssertUnwindSafe(|| decode_pixels(bytes)));
    let pixels = pixels.unwrap_or_else(|_| Err("makes its decoder panic".into()))?;
    Ok(to_rgb(pixels))
}

fn decode_pixels(bytes: &[u8]) -> Result<DynamicImage, String> {
    let wrong = |e: image::ImageError| format!("cannot be decoded ({e})");
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| format!("cannot be read ({e})"))?;
    let Some(format) = reader.format() else {
        return Err("is not a PNG, JPEG, WebP or GIF file".into());
    };
    if !format.reading_enabled() {
        return Err(format!("is {format:?}; PNG, JPEG, WebP and GIF are read"));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_EDGE);
    limits.max_image_height = Some(MAX_EDGE);
    limits.max_alloc = Some(MAX_PIXEL_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(wrong)?;
    let (width, height) = decoder.dimensions();
    // Not every decoder holds itself to the limits.
    if width.max(height) > MAX_EDGE || decoder.total_bytes() > MAX_PIXEL_BYTES {
        return Err(format!(
            "has {width}x{height} pixels; at most {MAX_EDGE} per side and {MAX_PIXEL_BYTES} bytes \
             of them are decoded: make it smaller"
        ));
    }
    if width == 0 || height == 0 {
        return Err(format!("has {width}x{height} pixels"));
    }
    let orientation = decoder.orientation().map_err(wrong)?;
    let mut pixels = DynamicImage::from_decoder(decoder).map_err(wrong)?;
    if let (ImageFormat::Gif, DynamicImage::ImageRgba8(screen)) = (format, &mut pixels)
        && let Some(ground) = Ground::read(bytes)
    {
        ground.fill(screen, width as usize);
    }
    pixels.apply_orientation(orientation);
    Ok(pixels)
}

/// Of 16 bits Pillow takes the upper 8, where `image` would round; of grey see the top.
fn upper_bytes(pixels: DynamicImage) -> DynamicImage {
    fn upper<P: Pixel<Subpixel = u16>, Q: Pixel<Subpixel = u8>>(
        pixels: &ImageBuffer<P, Vec<u16>>,
    ) -> ImageBuffer<Q, Vec<u8>> {
        let bytes = pixels.as_raw().iter().map(|v| (v >> 8) as u8).collect();
        ImageBuffer::from_raw(pixels.width(), pixels.height(), bytes).expect("as many values")
    }
    match pixels {
        DynamicImage::ImageRgb16(pixels) => DynamicImage::ImageRgb8(upper(&pixels)),
        DynamicImage::ImageRgba16(pixels) => DynamicImage::ImageRgba8(upper(&pixels)),
        DynamicImage::ImageLumaA16(pixels) => DynamicImage::ImageLumaA8(upper(&pixels)),
        others => others,
    }
}

fn to_rgb(pixels: DynamicImage) -> Image {
    let pixels = upper_bytes(pixels);
    let (width, height) = (pixels.width(), pixels.height());
    if !pixels.color().has_alpha() {
        return Image { width, height, rgb: pixels.into_rgb8().into_raw(), alpha: None };
    }
    let rgba = pixels.into_rgba8().into_raw();
    let rgb = rgba.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
    let alpha: Vec<u8> = rgba.chunks_exact(4).map(|p| p[3]).collect();
    let opaque = alpha.iter().all(|&a| a == 255);
    Image { width, height, rgb, alpha: (!opaque).then_some(alpha) }
}

//! The pictures that are searched: emoji and drawn scenes, or a folder of files.

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use matryo::embed::Image;
use sha2::{Digest, Sha256};
use twemoji_assets::png::PngTwemojiAsset;

use super::scenes;

/// Longest edge of a thumbnail, in pixels.
const THUMBNAIL: u32 = 144;

/// Where a picture comes from.
pub(crate) enum Source {
    /// An emoji's file, in this program.
    Bytes(&'static [u8]),
    /// Pixels, drawn by this program.
    Drawn(Image),
    File(PathBuf),
}

/// A picture that can be searched for; its name is its own.
pub(crate) struct Picture {
    pub(crate) name: String,
    pub(crate) source: Source,
}

impl Picture {
    /// Its pixels, on white where it is transparent: that is how it will be shown.
    pub(crate) fn load(&self) -> matryo::Result<Image> {
        let image = match &self.source {
            Source::Bytes(bytes) => Image::decode(bytes)?,
            Source::Drawn(image) => image.clone(),
            Source::File(path) => Image::open(path)?,
        };
        Ok(image.over([255; 3]))
    }

    /// A hash of what it shows: of its file, or of its pixels.
    pub(crate) fn content(&self) -> Result<String, Box<dyn Error>> {
        let hash = match &self.source {
            Source::Bytes(bytes) => Sha256::digest(bytes),
            Source::Drawn(image) => Sha256::digest(image.rgb()),
            Source::File(path) => {
                let read = fs::read(path);
                Sha256::digest(read.map_err(|e| format!("{}: {e}", path.display()))?)
            }
        };
        Ok(hash.iter().take(16).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")))
    }

    /// A small copy, as the file that a page can show.
    pub(crate) fn thumbnail(&self) -> Result<(&'static str, Vec<u8>), Box<dyn Error>> {
        if let Source::Bytes(bytes) = &self.source {
            return Ok(("image/png", bytes.to_vec()));
        }
        let image = self.load()?;
        let (width, height) = (image.width(), image.height());
        let pixels = image::RgbImage::from_raw(width, height, image.rgb().to_vec());
        let pixels = image::DynamicImage::from(pixels.ok_or("the pixels do not fit their size")?);
        let small = if width.max(height) > THUMBNAIL {
            pixels.thumbnail(THUMBNAIL, THUMBNAIL)
        } else {
            pixels
        };
        let mut file = std::io::Cursor::new(Vec::new());
        // Photographs would be large as PNG, and drawings blurred as JPEG.
        let drawn = matches!(self.source, Source::Drawn(_));
        let (kind, format) = if drawn {
            ("image/png", image::ImageFormat::Png)
        } else {
            ("image/jpeg", image::ImageFormat::Jpeg)
        };
        small.write_to(&mut file, format)?;
        Ok((kind, file.into_inner()))
    }
}

/// The pictures that come with the example: every emoji that Twemoji draws (without
/// skin tones), and scenes.
pub(crate) fn built_in() -> Vec<Picture> {
    let emoji = emojis::iter().filter_map(|emoji| {
        // Twemoji leaves out the selector that says "as a picture".
        let plain = emoji.as_str().replace('\u{fe0f}', "");
        let asset = PngTwemojiAsset::from_emoji(emoji.as_str());
        let bytes: &'static [u8] = asset.or_else(|| PngTwemojiAsset::from_emoji(&plain))?;
        Some(Picture { name: emoji.name().to_owned(), source: Source::Bytes(bytes) })
    });
    let scenes = scenes::all().into_iter().map(|scene| {
        let source = Source::Drawn(scene.draw());
        Picture { name: scene.to_string(), source }
    });
    // The same scene may have been drawn twice.
    let mut names = HashSet::new();
    emoji.chain(scenes).filter(|picture| names.insert(picture.name.clone())).collect()
}

/// The picture files below a folder, by their names' endings.
pub(crate) fn of_folder(dir: &Path) -> Result<Vec<Picture>, Box<dyn Error>> {
    let mut files = Vec::new();
    let failed = |e| format!("{}: {e}", dir.display());
    collect(dir, &mut files).map_err(failed)?;
    files.sort();
    let name = |path: &Path| {
        let name = path.strip_prefix(dir).unwrap_or(path);
        name.to_string_lossy().into_owned()
    };
    Ok(files.into_iter().map(|p| Picture { name: name(&p), source: Source::File(p) }).collect())
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Of the entry itself: links are not followed, so there is no going round.
        let kind = entry.file_type()?;
        let path = entry.path();
        if kind.is_dir() {
            collect(&path, into)?;
        } else if kind.is_file() && is_picture(&path) {
            into.push(path);
        }
    }
    Ok(())
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    matches!(ending.as_deref(), Some("png" | "jpg" | "jpeg" | "webp" | "gif"))
}

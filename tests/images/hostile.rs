//! Files that are damaged, lie about themselves, or are odd.

use std::fs;
use std::path::PathBuf;

use matryo::Error;
use matryo::embed::{Image, ImageEmbedder, MAX_IMAGE_EDGE};

use crate::{fixtures, ready};

fn picture(name: &str) -> PathBuf {
    fixtures().join("pictures").join(name)
}

fn hostile(name: &str) -> Vec<u8> {
    fs::read(fixtures().join("hostile").join(name)).unwrap()
}

/// The beginning of a PNG file that claims a size, with a right checksum.
fn png_header(width: u32, height: u32, depth: u8, colour: u8) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes_of());
    chunk.extend(height.to_be_bytes_of());
    chunk.extend([depth, colour, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    file.extend(&chunk);
    file.extend(crc32fast::hash(&chunk).to_be_bytes_of());
    // A data chunk, so that a decoder goes on to allocate.
    let mut data = b"IDAT".to_vec();
    data.extend([0x78, 0x9c, 0x63, 0, 0]);
    file.extend(5_u32.to_be_bytes_of());
    file.extend(&data);
    file.extend(crc32fast::hash(&data).to_be_bytes_of());
    file
}

trait BigEndian {
    fn to_be_bytes_of(self) -> [u8; 4];
}

impl BigEndian for u32 {
    /// Image files are big-endian; the lint against it is for our own.
    fn to_be_bytes_of(self) -> [u8; 4] {
        let mut bytes = self.to_le_bytes();
        bytes.reverse();
        bytes
    }
}

fn refused(bytes: &[u8]) -> String {
    match Image::decode(bytes) {
        Err(Error::Invalid { what: "image", why }) => why,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn image_bombs_are_refused_before_they_are_decoded() {
    let huge = refused(&png_header(65_535, 65_535, 8, 2));
    assert!(huge.contains("65535") || huge.contains("limit"), "{huge}");
    let wide = refused(&png_header(MAX_IMAGE_EDGE + 1, 1, 8, 2));
    assert!(wide.contains("imit") || wide.contains("per side"), "{wide}");
    // Within the edges, and 805 MB of pixels.
    let heavy = refused(&png_header(16_384, 16_384, 8, 2));
    assert!(heavy.contains("imit") || heavy.contains("bytes"), "{heavy}");
    let deep = refused(&png_header(8_000, 8_000, 16, 6));
    assert!(deep.contains("imit") || deep.contains("bytes"), "{deep}");
}

#[test]
fn other_formats_are_held_to_the_same_size() {
    let mut jpeg = fs::read(picture("tall.jpg")).unwrap();
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    refused(&jpeg);
    let mut gif = hostile("animated.gif");
    gif[6..10].copy_from_slice(&[0xff; 4]);
    refused(&gif);
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_a_picture() {
    let files = ["wide.png", "tall.jpg", "mirrored.webp", "still.gif", "alpha.png", "palette.png"];
    for name in files {
        let whole = fs::read(picture(name)).unwrap();
        let size = Image::decode(&whole).unwrap();
        let step = (whole.len() / 97).max(1);
        let mut errors = 0;
        for cut in (0..whole.len()).step_by(step) {
            match Image::decode(&whole[..cut]) {
                Ok(image) => assert_eq!(image.width(), size.width(), "{name} cut at {cut}"),
                Err(Error::Invalid { .. }) => errors += 1,
                Err(other) => panic!("{name} cut at {cut}: {other:?}"),
            }
        }
        assert!(errors > 5, "{name}: only {errors} errors");
    }
}

#[test]
fn a_file_with_any_byte_changed_never_panics() {
    for name in ["small.png", "still.gif", "tall.jpg", "mirrored.webp"] {
        let whole = fs::read(picture(name)).unwrap();
        let step = (whole.len() / 150).max(1);
        for at in (0..whole.len()).step_by(step) {
            for value in [0, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                if let Ok(image) = Image::decode(&changed) {
                    let pixels = image.width() as usize * image.height() as usize;
                    assert_eq!(image.rgb().len(), pixels * 3);
                }
            }
        }
    }
}

#[test]
fn what_is_no_picture_is_named() {
    for bytes in [&b""[..], b"hello", b"\x89PNG", b"GIF89a", b"II*\0", b"<svg></svg>", &[0; 64]] {
        assert!(!refused(bytes).is_empty());
    }
    assert!(refused(b"BM rest of a bitmap").contains("PNG, JPEG, WebP"));
    let missing = Image::open("/no/such/picture.png").unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing:?}");
    let folder = Image::open(fixtures()).unwrap_err();
    assert!(folder.to_string().contains("not a regular file"), "{folder}");
    let text = Image::open(fixtures().join("clip/config.json")).unwrap_err().to_string();
    assert!(text.contains("config.json") && text.contains("is not a"), "{text}");
}

#[test]
fn an_odd_file_is_read_for_what_it_is() {
    let renamed = Image::open(picture("really-a-png.jpg")).unwrap();
    assert_eq!((renamed.width(), renamed.height()), (45, 80));
    // The second frames are blue.
    for name in ["animated.gif", "animated.webp"] {
        let image = Image::decode(&hostile(name)).unwrap();
        assert_eq!((image.width(), image.height()), (20, 10), "{name}");
        assert!(image.rgb()[0] > 190 && image.rgb()[2] < 40, "{name}: {:?}", &image.rgb()[..3]);
    }
    let sixteen = Image::decode(&hostile("sixteen.png")).unwrap();
    let levels: Vec<u8> = sixteen.rgb().iter().step_by(3).copied().collect();
    assert_eq!(levels, (0..=255).collect::<Vec<u8>>(), "16 bits, by their high byte");
    assert_eq!(Image::decode(&hostile("one.png")).unwrap().rgb(), [10, 20, 30]);
    assert!(Image::decode(&hostile("progressive.jpg")).is_ok());
    let cmyk = Image::open(picture("cmyk.jpg")).unwrap();
    assert_eq!((cmyk.width(), cmyk.height()), (45, 80));
}

#[test]
fn orientation_is_applied() {
    let turned = Image::open(picture("turned.jpg")).unwrap();
    assert_eq!((turned.width(), turned.height()), (61, 97));
    let mirrored = Image::open(picture("mirrored.webp")).unwrap();
    assert_eq!((mirrored.width(), mirrored.height()), (80, 45));
}

#[test]
fn transparency_is_dropped_or_put_on_a_background() {
    let faded = Image::open(picture("alpha.png")).unwrap();
    assert!(faded.is_transparent());
    // The first row is invisible, and the last is nearly opaque.
    let white = faded.clone().over([255; 3]);
    assert!(!white.is_transparent());
    assert_eq!(white.rgb()[..3], [255; 3]);
    assert_ne!(faded.rgb()[..3], [255; 3]);
    let last = faded.rgb().len() - 3;
    for (a, b) in faded.rgb()[last..].iter().zip(&white.rgb()[last..]) {
        assert!(a.abs_diff(*b) <= 1);
    }
    let opaque = Image::open(picture("wide.png")).unwrap();
    assert_eq!(opaque.clone().over([1, 2, 3]), opaque);
}

#[test]
fn pixels_at_hand_must_fit_their_size() {
    assert!(Image::from_rgb8(2, 1, vec![0; 6]).is_ok());
    for (width, height, bytes) in
        [(2, 1, 5), (0, 1, 0), (u32::MAX, u32::MAX, 1), (20_000, 1, 60_000)]
    {
        assert!(Image::from_rgb8(width, height, vec![0; bytes]).is_err(), "{width}x{height}");
    }
}

#[test]
fn odd_sizes_are_embedded_and_a_bad_one_names_itself() {
    if !ready() {
        return;
    }
    let embedder = ImageEmbedder::open(fixtures().join("clip")).unwrap();
    let one = Image::decode(&hostile("one.png")).unwrap();
    let strip = Image::from_rgb8(1, 3_000, vec![7; 9_000]).unwrap();
    let vectors = embedder.embed_images([&one, &strip]).unwrap();
    assert!(vectors.iter().flatten().all(|v| v.is_finite()));
    let good = fs::read(picture("small.png")).unwrap();
    let bad = good[..20].to_vec();
    let refused = embedder.embed_images([&good, &good, &bad]).unwrap_err().to_string();
    assert!(refused.contains("number 2"), "{refused}");
    let path = fixtures().join("clip/config.json");
    let refused = embedder.embed_images([&picture("small.png"), &path]).unwrap_err().to_string();
    assert!(refused.contains("config.json"), "{refused}");
}

//! What Pillow 13.0 gives for `Image.open(file).convert("RGB")`, value by value.

use std::io::Cursor;

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, Rgba};
use matryo::embed::Image;

/// A GIF of 4 x 3 pixels whose first picture has 2 x 2, at 1, 1: colours 1, 2 and 3, 1 of a
/// palette of four, with `extension` before and the palette where it is asked for.
fn gif(extension: &[u8], own_palette: bool) -> Vec<u8> {
    let palette = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120];
    let (of_all, of_one): (&[u8], &[u8]) =
        if own_palette { (&[], &palette) } else { (&palette, &[]) };
    let flags = |palette: &[u8]| if palette.is_empty() { 1 } else { 0x81 };
    [
        b"GIF89a\x04\0\x03\0",
        &[flags(of_all), 2, 0][..],
        of_all,
        extension,
        b"\x2c\x01\0\x01\0\x02\0\x02\0",
        &[if own_palette { 0x81 } else { 0 }],
        of_one,
        b"\x02\x04\x0c\xc5\x31\x05\0\x3b",
    ]
    .concat()
}

#[test]
fn around_the_first_picture_of_a_gif_is_a_colour_of_its_palette() {
    let colours = [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]];
    let transparent = |number| [0x21, 0xf9, 4, 1, 0, 0, number, 0];
    let cases = [
        (gif(&[], false), 0, false),
        (gif(&[], true), 0, false),
        (gif(&transparent(3), false), 3, true),
        (gif(&transparent(2), false), 2, true),
        (gif(&transparent(0), true), 0, true),
    ];
    for (file, around, see_through) in cases {
        let image = Image::decode(&file).expect("a GIF");
        let a = around;
        let numbers = [a, a, a, a, a, 1, 2, a, a, 3, 1, a];
        let expected: Vec<u8> = numbers.iter().flat_map(|n| colours[*n]).collect();
        assert_eq!(image.rgb(), expected, "around is {around}");
        assert_eq!(image.is_transparent(), see_through, "around is {around}");
    }
}

fn png(pixels: impl Into<DynamicImage>) -> Image {
    let mut file = Cursor::new(Vec::new());
    pixels.into().write_to(&mut file, ImageFormat::Png).expect("written");
    Image::decode(file.get_ref()).expect("a PNG")
}

#[test]
fn of_sixteen_bits_the_upper_eight_are_taken() {
    let values = vec![0x00ff, 0x01ff, 0x7fff, 0x80c0, 0xfeff, 0xffff];
    let rgb = ImageBuffer::<Rgb<u16>, _>::from_raw(2, 1, values).expect("two pixels");
    assert_eq!(png(rgb).rgb(), [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff]);
    let values = vec![0x00ff, 0x01ff, 0x7fff, 0x80c0, 0xfeff, 0xffff, 0x0080, 0x1234];
    let rgba = ImageBuffer::<Rgba<u16>, _>::from_raw(2, 1, values).expect("two pixels");
    assert_eq!(png(rgba).rgb(), [0x00, 0x01, 0x7f, 0xfe, 0xff, 0x00]);
    let values = vec![0x00ff, 0x01ff, 0x7fff, 0x80c0];
    let grey = ImageBuffer::<LumaA<u16>, _>::from_raw(2, 1, values).expect("two pixels");
    assert_eq!(png(grey).rgb(), [0x00, 0x00, 0x00, 0x7f, 0x7f, 0x7f]);
    // Not Pillow's: it makes white of whatever is above 255.
    let values = vec![0, 0x01ff, 0x8080, 0xffff];
    let grey = ImageBuffer::<Luma<u16>, _>::from_raw(4, 1, values).expect("four pixels");
    let rgb: Vec<u8> = png(grey).rgb().iter().step_by(3).copied().collect();
    assert_eq!(rgb, [0, 2, 128, 255]);
}

//! What the first picture of a GIF leaves of the screen.
//!
//! A GIF's pictures need not cover its screen. The decoder leaves the rest transparent black;
//! Pillow begins with a screen of one colour number: the transparent one where there is one, else
//! 0, of the palette that the picture has.

/// Where the first picture is on the screen, in pixels, and the colour and opacity around it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ground {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    rgba: [u8; 4],
}

/// Bytes before the palette of all pictures.
const HEADER: usize = 13;

const EXTENSION: u8 = 0x21;
const GRAPHIC_CONTROL: u8 = 0xf9;
const PICTURE: u8 = 0x2c;

impl Ground {
    /// Of a GIF file; `None` where it has no picture, or is cut short before it.
    pub(super) fn read(file: &[u8]) -> Option<Self> {
        let global = palette(file, *file.get(10)?, HEADER)?;
        let (mut at, mut transparent) = (HEADER + global.len(), None);
        while *file.get(at)? == EXTENSION {
            if file.get(at + 1)? == &GRAPHIC_CONTROL {
                let &[flags, _, _, number] = file.get(at + 3..at + 7)? else { return None };
                transparent = (flags & 1 == 1).then_some(number);
            }
            at += 2;
            // Blocks, each after its length; the last is empty.
            while let length @ 1.. = usize::from(*file.get(at)?) {
                at += 1 + length;
            }
            at += 1;
        }
        let picture = file.get(at..at + 10).filter(|picture| picture[0] == PICTURE)?;
        let number = |at: usize| usize::from(u16::from_le_bytes([picture[at], picture[at + 1]]));
        let own = palette(file, picture[9], at + 10)?;
        let colours = if own.is_empty() { global } else { own };
        let colour = 3 * usize::from(transparent.unwrap_or(0));
        let &[r, g, b] = colours.get(colour..colour + 3)? else { return None };
        let rgba = [r, g, b, if transparent.is_some() { 0 } else { 255 }];
        Some(Self { left: number(1), top: number(3), width: number(5), height: number(7), rgba })
    }

    /// Colours what is around the picture, of rows of this many pixels.
    pub(super) fn fill(&self, rgba: &mut [u8], width: usize) {
        let across = self.left..self.left + self.width;
        let down = self.top..self.top + self.height;
        for (y, row) in rgba.chunks_exact_mut(4 * width.max(1)).enumerate() {
            for (x, pixel) in row.chunks_exact_mut(4).enumerate() {
                if !(down.contains(&y) && across.contains(&x)) {
                    pixel.copy_from_slice(&self.rgba);
                }
            }
        }
    }
}

/// The palette at a place in the file, as `flags` tell; empty if there is none.
fn palette(file: &[u8], flags: u8, at: usize) -> Option<&[u8]> {
    let colours = if flags & 0x80 == 0 { 0 } else { 2 << (flags & 7) };
    file.get(at..at + 3 * colours)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Screen 4 x 3, four colours, a comment, colour 2 transparent, a picture of 2 x 2 at 1, 1.
    const FILE: &[u8] =
        b"GIF89a\x04\0\x03\0\x81\0\0\x0a\x14\x1e\x28\x32\x3c\x46\x50\x5a\x64\x6e\x78\
        \x21\xfe\x02hi\x01!\0\x21\xf9\x04\x01\0\0\x02\0\x2c\x01\0\x01\0\x02\0\x02\0\0";

    #[test]
    fn the_ground_has_the_transparent_colour_or_the_first() {
        let mut ground = Ground::read(FILE).expect("a picture");
        assert_eq!(ground.rgba, [0x46, 0x50, 0x5a, 0]);
        assert_eq!((ground.left, ground.top, ground.width, ground.height), (1, 1, 2, 2));
        let mut opaque = FILE.to_vec();
        opaque[FILE.len() - 15] = 0;
        ground.rgba = [0x0a, 0x14, 0x1e, 255];
        assert_eq!(Ground::read(&opaque), Some(ground));
    }

    #[test]
    fn what_is_cut_short_has_none() {
        for cut in 0..FILE.len() {
            assert_eq!(Ground::read(&FILE[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_around_the_picture_is_filled() {
        let ground = Ground { left: 1, top: 0, width: 9, height: 1, rgba: [7; 4] };
        let mut rgba = [0; 16];
        ground.fill(&mut rgba, 2);
        assert_eq!(rgba, [7, 7, 7, 7, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7]);
    }
}

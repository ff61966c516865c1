//! Scenes of coloured shapes, drawn here: one group of equal shapes, or two beside
//! or above each other.

use std::fmt;

use matryo::embed::Image;

const SIDE: u32 = 96;

/// Points per pixel and direction, for smooth edges.
const SUPER: u32 = 3;

const COLOURS: [(&str, [u8; 3]); 6] = [
    ("red", [214, 40, 40]),
    ("yellow", [250, 215, 50]),
    ("green", [50, 160, 70]),
    ("blue", [40, 95, 215]),
    ("purple", [140, 60, 175]),
    ("black", [25, 25, 28]),
];
const SHAPES: [&str; 4] = ["circle", "square", "triangle", "ring"];
const NUMBERS: [&str; 3] = ["one", "two", "three"];

/// Scenes with two groups.
const PAIRS: u32 = 360;

/// Some equal shapes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Group {
    count: usize,
    colour: usize,
    shape: usize,
}

/// One group, or two and whether the first is above the second (or left of it).
#[derive(Clone, Copy)]
pub(crate) struct Scene {
    first: Group,
    second: Option<(bool, Group)>,
}

/// Every single group of one to three, and some pairs: always the same ones.
pub(crate) fn all() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for count in 1..=NUMBERS.len() {
        for colour in 0..COLOURS.len() {
            for shape in 0..SHAPES.len() {
                scenes.push(Scene { first: Group { count, colour, shape }, second: None });
            }
        }
    }
    let mut state = 1_u32;
    let mut draw = |below: usize| {
        // The generator of Numerical Recipes, section 7.1; its high bits are good.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize % below
    };
    for _ in 0..PAIRS {
        let mut group =
            || Group { count: 1 + draw(3), colour: draw(COLOURS.len()), shape: draw(SHAPES.len()) };
        let (first, mut second) = (group(), group());
        if second.shape == first.shape {
            second.shape = (second.shape + 1) % SHAPES.len();
        }
        scenes.push(Scene { first, second: Some((draw(2) == 0, second)) });
    }
    scenes
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (colour, shape) = (COLOURS[self.colour].0, SHAPES[self.shape]);
        let many = if self.count > 1 { "s" } else { "" };
        write!(f, "{} {colour} {shape}{many}", NUMBERS[self.count - 1])
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.second {
            None => write!(f, "{}", self.first),
            Some((true, second)) => write!(f, "{} above {second}", self.first),
            Some((false, second)) => write!(f, "{} left of {second}", self.first),
        }
    }
}

impl Scene {
    pub(crate) fn draw(&self) -> Image {
        let mut canvas = Canvas { rgb: vec![255; (SIDE * SIDE * 3) as usize] };
        match self.second {
            None => canvas.group(self.first, [0.0, 0.0, 1.0, 1.0]),
            Some((true, second)) => {
                canvas.group(self.first, [0.0, 0.0, 1.0, 0.5]);
                canvas.group(second, [0.0, 0.5, 1.0, 1.0]);
            }
            Some((false, second)) => {
                canvas.group(self.first, [0.0, 0.0, 0.5, 1.0]);
                canvas.group(second, [0.5, 0.0, 1.0, 1.0]);
            }
        }
        Image::from_rgb8(SIDE, SIDE, canvas.rgb).expect("the canvas has its size")
    }
}

struct Canvas {
    rgb: Vec<u8>,
}

impl Canvas {
    /// A row or column of shapes in the area left, top, right, bottom.
    fn group(&mut self, group: Group, [left, top, right, bottom]: [f32; 4]) {
        let (width, height) = (right - left, bottom - top);
        if width.min(height) > 0.5 && group.count > 1 {
            // Alone on the page they stand two by two.
            for at in 0..group.count {
                let place = |odd: bool| if odd { 0.75 } else { 0.25 };
                self.shape(group, place(at % 2 == 1), place(at > 1), 0.19);
            }
            return;
        }
        let along_x = width >= height;
        let cell = (width.max(height) / group.count as f32).min(width.min(height));
        for at in 0..group.count {
            let step = (at as f32 + 0.5) / group.count as f32;
            let (x, y) = if along_x {
                (left + step * width, top + height / 2.0)
            } else {
                (left + width / 2.0, top + step * height)
            };
            self.shape(group, x, y, cell * 0.38);
        }
    }

    fn shape(&mut self, group: Group, x: f32, y: f32, radius: f32) {
        let colour = COLOURS[group.colour].1;
        for row in 0..SIDE {
            for column in 0..SIDE {
                let inside = (0..SUPER * SUPER).filter(|point| {
                    let place = |pixel: u32, point: u32| {
                        (pixel as f32 + (point as f32 + 0.5) / SUPER as f32) / SIDE as f32
                    };
                    let px = place(column, point % SUPER) - x;
                    let py = place(row, point / SUPER) - y;
                    contains(group.shape, px / radius, py / radius)
                });
                let share = inside.count() as f32 / (SUPER * SUPER) as f32;
                let at = ((row * SIDE + column) * 3) as usize;
                for (old, new) in self.rgb[at..at + 3].iter_mut().zip(colour) {
                    *old = (f32::from(*old) * (1.0 - share) + f32::from(new) * share).round() as u8;
                }
            }
        }
    }
}

/// Whether a shape of radius 1 around the origin has the point; y grows downwards.
fn contains(shape: usize, x: f32, y: f32) -> bool {
    match SHAPES[shape] {
        "circle" => x.hypot(y) <= 1.0,
        "ring" => (0.62..=1.0).contains(&x.hypot(y)),
        "square" => x.abs().max(y.abs()) <= 0.85,
        _ => (-1.0..=0.8).contains(&y) && x.abs() <= (y + 1.0) * 0.53,
    }
}

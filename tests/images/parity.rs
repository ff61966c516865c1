//! The same pixels and vectors as Python, for each kind of model and picture.

use std::fs;

use half::f16;
use matryo::embed::{Image, ImageEmbedder, Pooling};

use crate::{copy, cosine, expected, fixtures, ready, strings, vectors};

const MODELS: [&str; 6] = ["clip", "clip_joint", "siglip", "vit", "convnext", "resnet"];

/// Mean difference of a picture's values, in parts of the range of a pixel.
const PIXEL_TOLERANCE: f32 = 1.0 / 255.0;

/// What lossless pictures reach: the resizer rounds its weights to 16 bits, so that
/// some values are off by one. Another filter is off by several times this.
const EXACT_TOLERANCE: f32 = 0.5 / 255.0;

const COSINE: f32 = 0.999;

/// Python's values of each picture, `[3, height, width]`.
fn python_pixels(model: &str, pictures: usize) -> Vec<Vec<f32>> {
    let bytes = fs::read(fixtures().join(model).join("pixels.f16")).unwrap();
    let values: Vec<f32> =
        bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    values.chunks_exact(values.len() / pictures).map(<[f32]>::to_vec).collect()
}

#[test]
fn pixels_are_pythons() {
    if !ready() {
        return;
    }
    for model in MODELS {
        let embedder = ImageEmbedder::open(fixtures().join(model)).unwrap();
        let expected = expected(model);
        let names = strings(&expected["pictures"]);
        let std: Vec<f32> = vectors(&serde_json::json!([expected["std"]])).remove(0);
        for (name, theirs) in names.iter().zip(python_pixels(model, names.len())) {
            let path = fixtures().join("pictures").join(name);
            let (ours, height, width) = embedder.pixel_values(&path).unwrap();
            assert_eq!((height, width, ours.len()), (32, 32, theirs.len()), "{model} {name}");
            let plane = height * width;
            let off = ours.iter().zip(&theirs).enumerate();
            let off: f32 = off.map(|(at, (a, b))| (a - b).abs() * std[at / plane]).sum();
            let mean = off / ours.len() as f32;
            println!("{model} {name}: {:.3} / 255", mean * 255.0);
            let lossless =
                !["tall.jpg", "turned.jpg", "cmyk.jpg", "photo.jpg"].contains(&name.as_str());
            let most = if lossless { EXACT_TOLERANCE } else { PIXEL_TOLERANCE };
            assert!(mean < most, "{model} {name}: {} / 255", mean * 255.0);
        }
    }
}

#[test]
fn vectors_are_pythons() {
    if !ready() {
        return;
    }
    for model in MODELS {
        let embedder = ImageEmbedder::open(fixtures().join(model)).unwrap();
        let expected = expected(model);
        let names = strings(&expected["pictures"]);
        let theirs = vectors(&expected["images"]);
        let paths: Vec<_> = names.iter().map(|n| fixtures().join("pictures").join(n)).collect();
        let ours = embedder.embed_images(&paths).unwrap();
        assert_eq!(ours.len(), theirs.len());
        for ((name, a), b) in names.iter().zip(&ours).zip(&theirs) {
            assert_eq!(a.len(), b.len(), "{model}");
            let cosine = cosine(a, b);
            assert!(cosine >= COSINE, "{model} {name}: cosine {cosine}");
        }
        // Random weights must not make all pictures alike: then anything would pass.
        let apart = cosine(&theirs[0], &theirs[names.len() - 1]);
        assert!(apart < 0.9999, "{model}: the fixture tells nothing apart ({apart})");
        assert_eq!(embedder.dims(), theirs[0].len());
    }
}

#[test]
fn the_batch_changes_nothing_and_sources_are_alike() {
    if !ready() {
        return;
    }
    let dir = fixtures().join("convnext");
    let names = strings(&expected("convnext")["pictures"]);
    let paths: Vec<_> = names.iter().map(|n| fixtures().join("pictures").join(n)).collect();
    let one = ImageEmbedder::builder(&dir).batch_images(1).open().unwrap();
    let many = ImageEmbedder::builder(&dir).batch_images(5).open().unwrap();
    let alone = one.embed_images(&paths).unwrap();
    let files: Vec<Vec<u8>> = paths.iter().map(|p| fs::read(p).unwrap()).collect();
    let images: Vec<Image> = files.iter().map(|f| Image::decode(f).unwrap()).collect();
    let from_bytes = many.embed_images(&files).unwrap();
    let from_images = many.embed_images(&images).unwrap();
    for (at, a) in alone.iter().enumerate() {
        for b in [&from_bytes[at], &from_images[at]] {
            let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{}: off by {worst}", names[at]);
        }
    }
    assert_eq!(one.embed_image(&paths[0]).unwrap(), alone[0]);
    assert!(one.embed_images(Vec::<&Image>::new()).unwrap().is_empty());
}

#[test]
fn what_was_chosen_is_told() {
    if !ready() {
        return;
    }
    let told = |model| ImageEmbedder::open(fixtures().join(model)).unwrap().describe();
    let clip = told("clip");
    assert!(clip.graph.ends_with("onnx/vision_model.onnx"));
    assert_eq!((clip.output.as_str(), clip.dims), ("image_embeds", 12));
    assert!(clip.processing.contains("shortest edge to 32 (Bicubic), centre 32x32"), "{clip}");
    let vit = told("vit");
    assert_eq!(vit.output, "last_hidden_state");
    assert_eq!(vit.pooling, "cls over tokens");
    assert!(vit.processing.contains("resize to 32x32 (Bilinear)"), "{vit}");
    let convnext = told("convnext");
    assert_eq!(convnext.output, "pooler_output");
    assert!(convnext.processing.contains("shortest edge to 40"), "{convnext}");
}

#[test]
fn outputs_and_poolings_can_be_chosen() {
    if !ready() {
        return;
    }
    let map = ImageEmbedder::builder(fixtures().join("resnet")).output("last_hidden_state");
    let map = map.open().unwrap();
    assert_eq!(map.describe().pooling, "mean over places");
    // ResNet's pooled output is that mean.
    let pooled = ImageEmbedder::open(fixtures().join("resnet")).unwrap();
    let picture = fixtures().join("pictures/wide.png");
    let (a, b) = (map.embed_image(&picture).unwrap(), pooled.embed_image(&picture).unwrap());
    assert!(a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-5), "{a:?} {b:?}");
    let mean = ImageEmbedder::builder(fixtures().join("vit")).pooling(Pooling::Mean).open();
    assert_eq!(mean.unwrap().describe().pooling, "mean over tokens");
    let wrong = ImageEmbedder::builder(fixtures().join("vit")).output("features").open();
    let wrong = wrong.unwrap_err().to_string();
    assert!(wrong.contains("last_hidden_state") && wrong.contains("pooler_output"), "{wrong}");
}

#[test]
fn a_processor_that_is_not_understood_is_refused() {
    let cases = [
        (r#"{"size": {"longest_edge": 32}}"#, "shortest_edge"),
        (r#"{"size": {"height": 0, "width": 32}}"#, "edge"),
        (r#"{"size": {"height": 100000, "width": 32}}"#, "edge"),
        (r#"{"size": 32, "resample": 9}"#, "resample"),
        (r#"{"size": 32, "do_pad": true}"#, "do_pad"),
        (r#"{"size": 32, "do_center_crop": true}"#, "crop_size"),
        (r#"{"size": 32, "image_mean": [0.5, 0.5]}"#, "image_mean"),
        (r#"{"size": 32, "image_mean": 0.5, "image_std": 0}"#, "image_std"),
        (r#"{"size": 32, "do_resize": "yes"}"#, "do_resize"),
        (r#"{"size": 32, "rescale_offset": true}"#, "rescale_offset"),
        (r#"{"size": 32, "include_top": true}"#, "include_top"),
        (r#"{"size": 32, "image_processor_type": "EfficientNetImageProcessor"}"#, "include_top"),
        (
            r#"{"size": 32, "image_processor_type": "CLIPImageProcessor", "crop_pct": 0.9}"#,
            "crop_pct",
        ),
        (
            r#"{"size": 32, "image_processor_type": "LevitImageProcessorFast"}"#,
            "image_processor_type",
        ),
        (
            r#"{"size": 32, "image_processor_type": "DINOv3ViTImageProcessorFast"}"#,
            "image_processor_type",
        ),
        ("[]", "JSON object"),
        ("{", "valid JSON"),
    ];
    for (content, words) in cases {
        let dir = copy("convnext");
        fs::write(dir.path().join("preprocessor_config.json"), content).unwrap();
        let refused = ImageEmbedder::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("preprocessor_config.json"), "{refused}");
        assert!(refused.contains(words), "{content}: {refused}");
    }
    let dir = copy("convnext");
    fs::remove_file(dir.path().join("preprocessor_config.json")).unwrap();
    let refused = ImageEmbedder::open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("AutoImageProcessor"), "{refused}");
}

#[test]
fn what_changes_the_vectors_changes_the_fingerprint() {
    if !ready() {
        return;
    }
    let open = |dir: &std::path::Path| *ImageEmbedder::open(dir).unwrap().fingerprint();
    let (dir, config) = (copy("resnet"), "preprocessor_config.json");
    let before = open(dir.path());
    let text = fs::read_to_string(dir.path().join(config)).unwrap();
    assert_eq!(before, open(&fixtures().join("resnet")));
    assert_eq!(before, before.to_record().parse().unwrap());
    fs::write(dir.path().join(config), text.replace("\"resample\": 2", "\"resample\": 3")).unwrap();
    let after = open(dir.path());
    assert_eq!(before.differing_parts(&after), ["vision"]);
    // A picture of another size than the graph's own is another matter.
    let fixed = copy("vit");
    let text = fs::read_to_string(fixed.path().join(config)).unwrap();
    fs::write(fixed.path().join(config), text.replace("32", "40")).unwrap();
    assert!(ImageEmbedder::open(fixed.path()).is_err());
}

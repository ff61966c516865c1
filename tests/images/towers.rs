//! Directories with a text and a vision tower.

use std::fs;

use matryo::embed::{Embedder, ImageEmbedder};

use crate::{copy, cosine, expected, fixtures, ready, strings, vectors};

const MODELS: [&str; 3] = ["clip", "clip_joint", "siglip"];

#[test]
fn texts_and_images_are_pythons() {
    if !ready() {
        return;
    }
    for model in MODELS {
        let embedder = Embedder::open(fixtures().join(model)).unwrap();
        let expected = expected(model);
        let texts = strings(&expected["texts"]);
        let ours = embedder.embed_documents(&texts).unwrap();
        for ((text, a), b) in texts.iter().zip(&ours).zip(&vectors(&expected["text_vectors"])) {
            let cosine = cosine(a, b);
            assert!(cosine >= 0.9999, "{model} {text:?}: cosine {cosine}");
        }
        let alone = embedder.embed_query(&texts[0]).unwrap();
        assert!(cosine(&alone, &ours[0]) > 0.9999, "{model}: alone and in a batch");
        let picture = fixtures().join("pictures").join(&strings(&expected["pictures"])[0]);
        let image = embedder.embed_image(&picture).unwrap();
        assert!(cosine(&image, &vectors(&expected["images"])[0]) >= 0.999, "{model}");
        assert_eq!(embedder.images().unwrap().dims(), embedder.dims());
    }
}

#[test]
fn both_towers_are_told_and_hashed() {
    if !ready() {
        return;
    }
    let dir = copy("clip");
    let both = Embedder::open(dir.path()).unwrap();
    let told = both.describe();
    assert!(told.graph.ends_with("onnx/text_model.onnx"));
    assert!(told.images.is_some() && told.to_string().contains("image graph"), "{told}");
    let names: Vec<&str> = both.fingerprint().parts().map(|(name, _)| name).collect();
    assert_eq!(names, ["graph", "tokenizer", "modules", "prompts", "vision"]);
    assert_eq!(*both.fingerprint(), both.fingerprint().to_record().parse().unwrap());

    let config = dir.path().join("preprocessor_config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"resample\": 3", "\"resample\": 1")).unwrap();
    let other = Embedder::open(dir.path()).unwrap();
    assert_eq!(both.fingerprint().differing_parts(other.fingerprint()), ["vision"]);
    // The vision tower by itself has the same part.
    let vision = ImageEmbedder::open(dir.path()).unwrap();
    let part = |f: &matryo::embed::Fingerprint| f.parts().last().map(|(_, hash)| *hash);
    assert_eq!(part(vision.fingerprint()), part(other.fingerprint()));
}

#[test]
fn a_model_of_texts_refuses_images() {
    if !ready() {
        return;
    }
    let texts = Embedder::open(fixtures().join("../models/static")).unwrap();
    assert!(texts.images().is_none());
    let refused = texts.embed_image(&fixtures().join("pictures/wide.png")).unwrap_err();
    assert!(refused.to_string().contains("takes text alone"), "{refused}");
}

#[test]
fn towers_of_different_models_are_refused() {
    if !ready() {
        return;
    }
    let dir = copy("clip");
    let vision = fixtures().join("siglip/onnx/vision_model.onnx");
    fs::copy(vision, dir.path().join("onnx/vision_model.onnx")).unwrap();
    let refused = Embedder::open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("share no space"), "{refused}");
    fs::remove_file(dir.path().join("preprocessor_config.json")).unwrap();
    let refused = Embedder::open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("preprocessor_config.json"), "{refused}");
}

#[test]
fn a_joint_graph_without_its_processor_still_takes_texts() {
    if !ready() {
        return;
    }
    let dir = copy("clip_joint");
    let both = Embedder::open(dir.path()).unwrap();
    let config = dir.path().join("preprocessor_config.json");
    let text = fs::read_to_string(&config).unwrap();
    let unknown = text.replace("\"resample\": 3", "\"resample\": 77");
    assert_ne!(unknown, text);
    for (content, named) in
        [(Some(unknown), "no filter"), (None, "there is no preprocessor_config")]
    {
        match content {
            Some(content) => fs::write(&config, content).unwrap(),
            None => fs::remove_file(&config).unwrap(),
        }
        let texts = Embedder::open(dir.path()).unwrap();
        assert!(texts.images().is_none() && texts.describe().images.is_none());
        let refused = texts.embed_image(&fixtures().join("pictures/wide.png")).unwrap_err();
        assert!(refused.to_string().contains(named), "{refused}");
        let (a, b) = (texts.embed_query("a cat").unwrap(), both.embed_query("a cat").unwrap());
        assert!(cosine(&a, &b) > 0.9999);
    }
}

#[test]
fn both_towers_are_shortened() {
    if !ready() {
        return;
    }
    let dir = fixtures().join("clip");
    let (whole, short) =
        (Embedder::open(&dir).unwrap(), Embedder::builder(&dir).dims(8).open().unwrap());
    let picture = fixtures().join("pictures/wide.png");
    let (a, b) = (whole.embed_image(&picture).unwrap(), short.embed_image(&picture).unwrap());
    assert!(a.len() > 8 && b.len() == 8 && short.dims() == 8);
    assert!(cosine(&a[..8], &b) > 0.9999);
    assert_eq!(short.images().unwrap().granularities().last(), Some(&8));
    let refused = Embedder::builder(&dir).dims(a.len() + 1).open().unwrap_err().to_string();
    assert!(refused.contains("are to be kept"), "{refused}");
}

#[test]
fn rows_padded_to_the_limit_count_so_in_batches() {
    if !ready() {
        return;
    }
    let dir = fixtures().join("siglip");
    let expected = expected("siglip");
    let texts = strings(&expected["texts"]);
    let one = Embedder::builder(&dir).batch_tokens(1).open().unwrap();
    let many = Embedder::open(&dir).unwrap();
    assert!(!many.describe().one_at_a_time);
    let pairs = [one, many].map(|e| e.embed_documents(&texts).unwrap());
    for (a, b) in pairs[0].iter().zip(&pairs[1]) {
        assert!(cosine(a, b) > 0.9999);
    }
}

/// SigLIP's texts are padded and nothing hides it: what they are padded with is told apart.
#[test]
fn padding_that_is_seen_is_in_the_fingerprint() {
    if !ready() {
        return;
    }
    let dir = copy("siglip");
    let usual = Embedder::open(dir.path()).unwrap();
    let path = dir.path().join("tokenizer_config.json");
    let config = fs::read_to_string(&path).unwrap();
    assert!(config.contains("</s>"));
    fs::write(path, config.replace("</s>", "a")).unwrap();
    let other = Embedder::open(dir.path()).unwrap();
    let [a, b] = [&usual, &other].map(|e| e.embed_query("red apple").unwrap());
    assert_ne!(a, b);
    assert_eq!(usual.fingerprint().differing_parts(other.fingerprint()), ["modules"]);
}

#[test]
fn a_graph_without_pictures_is_no_image_model() {
    if !ready() {
        return;
    }
    let dir = copy("clip");
    let text = dir.path().join("onnx/text_model.onnx");
    fs::copy(text, dir.path().join("onnx/vision_model.onnx")).unwrap();
    let refused = ImageEmbedder::open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("does not take images"), "{refused}");
}

/// The shipped model: the text and picture of a thing are near, at every
/// granularity.
#[test]
fn the_shipped_model_finds_things() {
    if !ready() {
        return;
    }
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/image/matryo-image-en");
    let embedder = Embedder::open(dir).unwrap();
    assert_eq!(embedder.granularities(), [16, 32, 64, 128, 256]);
    let things = ["\u{1f34e}", "\u{1f692}", "\u{1f431}", "\u{1f3b8}", "\u{1f333}", "\u{2708}"];
    let words = ["red apple", "fire engine", "cat face", "guitar", "deciduous tree", "airplane"];
    let files = things.map(|t| {
        let file: &[u8] = twemoji_assets::png::PngTwemojiAsset::from_emoji(t).unwrap();
        matryo::embed::Image::decode(file).unwrap().over([255; 3])
    });
    let images = embedder.embed_images(&files).unwrap();
    let texts = embedder.embed_queries(&words).unwrap();
    for &dims in embedder.granularities() {
        for (at, text) in texts.iter().enumerate() {
            let score = |image: &Vec<f32>| cosine(&text[..dims], &image[..dims]);
            let best =
                (0..images.len()).max_by(|&a, &b| score(&images[a]).total_cmp(&score(&images[b])));
            assert_eq!(best, Some(at), "{} by {dims} dimensions", words[at]);
        }
    }
}

#[test]
fn a_vision_tower_of_another_name_is_chosen() {
    if !ready() {
        return;
    }
    let dir = copy("clip");
    let picture = fixtures().join("pictures/wide.png");
    let expected = Embedder::open(dir.path()).unwrap().embed_image(&picture).unwrap();
    let onnx = dir.path().join("onnx");
    fs::rename(onnx.join("vision_model.onnx"), onnx.join("vision_model_quantized.onnx")).unwrap();
    let texts = Embedder::open(dir.path()).unwrap();
    let refused = texts.embed_image(&picture).unwrap_err().to_string();
    assert!(refused.contains("onnx/vision_model_quantized.onnx"), "{refused}");
    assert!(refused.contains("vision_graph(NAME)"), "{refused}");
    let both = Embedder::builder(dir.path()).vision_graph("vision_model_quantized.onnx");
    let both = both.batch_images(3).open().unwrap();
    assert_eq!(both.describe().images.unwrap().batch_images, 3);
    assert_eq!(both.embed_image(&picture).unwrap(), expected);
    let refused = Embedder::builder(dir.path()).vision_graph("vision.onnx").open();
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("there is no graph \"vision.onnx\""), "{refused}");
}

#[test]
fn a_picture_is_taken_as_an_array_of_bytes() {
    if !ready() {
        return;
    }
    let embedder = Embedder::open(fixtures().join("clip")).unwrap();
    let bytes = include_bytes!("../fixtures/images/pictures/wide.png");
    let path = fixtures().join("pictures/wide.png");
    assert_eq!(embedder.embed_image(bytes).unwrap(), embedder.embed_image(&path).unwrap());
}

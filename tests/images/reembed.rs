//! A collection of pictures changes from one model to another.

use matryo::embed::{Embedder, ImageEmbedder};
use matryo::{Collection, EmbedderId, Error, IdKind, ReembedOptions, Schema, json, reembed};

use super::{fixtures, ready};

const PICTURES: [&str; 4] = ["wide.png", "tall.jpg", "still.gif", "strip.webp"];

#[test]
fn pictures_are_embedded_again_by_their_paths() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pictures");
    let old = ImageEmbedder::open(fixtures().join("resnet")).unwrap();
    let schema = Schema::builder(old.dims()).ids(IdKind::Str).embedder(&old).build().unwrap();
    let collection = Collection::create(&path, schema).unwrap();
    let folder = fixtures().join("pictures");
    for name in PICTURES {
        let vector = old.embed_image(&folder.join(name)).unwrap();
        collection.upsert(name, &vector, json!({"path": name})).unwrap();
    }
    drop(collection);

    // A model with two towers, then one of pictures alone.
    let towers = Embedder::open(fixtures().join("clip")).unwrap();
    let options = ReembedOptions::from(&towers);
    let picture = || reembed::file("path", &folder);
    let done = reembed::pictures(&path, &towers, &options, picture(), |_| true).unwrap();
    assert_eq!((done.rows, done.embedded), (4, 4));
    check(&path, &(&towers).into(), |name| towers.embed_image(&folder.join(name)).unwrap());
    let vit = ImageEmbedder::open(fixtures().join("vit")).unwrap();
    let options = ReembedOptions::from(&vit);
    let other = reembed::pictures(&path, &towers, &options, picture(), |_| true);
    assert!(matches!(other, Err(Error::OtherEmbedder { .. })), "{other:?}");
    reembed::pictures(&path, &vit, &options, picture(), |_| true).unwrap();
    check(&path, &(&vit).into(), |name| vit.embed_image(&folder.join(name)).unwrap());

    // A file that is gone is named, with its row.
    let collection = Collection::open(&path).unwrap();
    collection.upsert("x", &vec![1.0; vit.dims()], json!({"path": "gone.png"})).unwrap();
    drop(collection);
    let options = ReembedOptions::from(&towers);
    let refused = reembed::pictures(&path, &towers, &options, picture(), |_| true);
    let refused = refused.expect_err("a file is gone").to_string();
    assert!(refused.contains("row x: ") && refused.contains("gone.png"), "{refused}");
    let collection = Collection::open(&path).unwrap();
    assert_eq!(collection.len(), 5);

    // Rows that name no picture can be left out; one whose file is gone is no such row.
    collection.upsert("y", &vec![1.0; vit.dims()], json!({"path": null})).unwrap();
    drop(collection);
    let towers: &dyn reembed::PictureEmbedder = &towers;
    let run = |skip| {
        let (options, picture) = (options.clone(), reembed::optional_file("path", &folder));
        reembed::pictures(&path, towers, &options.skip_unfit(skip), picture, |_| true)
    };
    let refused = run(true).expect_err("a file is gone").to_string();
    assert!(refused.contains("row x: ") && refused.contains("gone.png"), "{refused}");
    Collection::open(&path).unwrap().delete("x").unwrap();
    let refused = run(false).expect_err("no picture").to_string();
    assert!(refused.contains("row y: there is nothing to embed"), "{refused}");
    let done = run(true).unwrap();
    assert_eq!((done.rows, done.skipped), (4, 1));
}

fn check(path: &std::path::Path, id: &EmbedderId, embed: impl Fn(&str) -> Vec<f32>) {
    let collection = Collection::open(path).unwrap();
    collection.check_embedder(id).unwrap();
    for name in PICTURES {
        let row = collection.get(name).unwrap().expect("kept");
        let same = row.vector.iter().zip(embed(name)).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(same, "{name}");
        assert_eq!(row.payload["path"], json!(name));
    }
}

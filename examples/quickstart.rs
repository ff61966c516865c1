//! The store without a model: create, search, reopen.
//!
//! `cargo run --example quickstart`

use matryo::{Collection, Schema, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("colours.matryo");

    // 8 dimensions, of which the first 2 and the first 4 are embeddings of their own.
    let schema = Schema::builder(8).granularities([2, 4]).build()?;
    let colours = Collection::create(&path, schema)?;
    let mut batch = colours.batch();
    batch.upsert(1, &[0.9, 0.1, 0.3, 0.0, 0.1, 0.0, 0.0, 0.1], json!({"name": "red"}))?;
    batch.upsert(2, &[0.8, 0.3, 0.1, 0.2, 0.0, 0.1, 0.0, 0.0], json!({"name": "orange"}))?;
    batch.upsert(3, &[0.1, 0.9, 0.0, 0.3, 0.0, 0.0, 0.1, 0.0], json!({"name": "blue"}))?;
    batch.commit()?; // on disk, all three of them
    drop(colours);

    let colours = Collection::open(&path)?;
    let query = [0.9, 0.2, 0.2, 0.0, 0.1, 0.0, 0.0, 0.0];
    for dims in [2, 8] {
        let result = colours.search(&query).dims(dims).limit(2).payloads(true).run()?;
        println!("by {dims} dimensions:");
        for hit in &result.hits {
            let name = hit.payload.as_ref().map(|p| &p["name"]);
            println!("  {:.3}  row {}  {name:?}", hit.score, hit.id);
        }
        print!("{}", result.explain);
    }
    Ok(())
}

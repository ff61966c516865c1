//! The example `image_search`: the page it writes, by its structure and, where a
//! Chromium is installed, by a look at it.

#![cfg(feature = "image")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use matryo::embed::Image;

#[path = "../examples/image_search/main.rs"]
#[expect(dead_code, reason = "main itself is not called")]
mod example;

/// Whether ONNX Runtime is here; fetches it once if that is allowed.
fn ready() -> bool {
    match matryo::embed::runtime::locate_or_install() {
        Ok(_) => true,
        Err(e) if env::var_os("MATRYO_OFFLINE").is_some() => {
            eprintln!("SKIPPED, the example image_search is not tested: {e}");
            false
        }
        Err(e) => panic!("{e}"),
    }
}

fn run(words: &[&str]) -> Result<String, String> {
    let mut printed = Vec::new();
    let words = words.iter().map(Into::into);
    example::run(words, &mut printed).map_err(|e| e.to_string())?;
    Ok(String::from_utf8(printed).expect("UTF-8"))
}

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/pictures")
}

/// How often a text occurs.
fn count(page: &str, text: &str) -> usize {
    page.matches(text).count()
}

/// Every element that is opened is closed, in the right order.
fn assert_nested(page: &str) {
    let body = &page[page.find("<body>").expect("a body")..];
    let mut open: Vec<&str> = Vec::new();
    for tag in body.split('<').skip(1) {
        let name = tag.split([' ', '>', '\n']).next().unwrap_or("");
        match name.strip_prefix('/') {
            Some("html") => {}
            Some(closed) => assert_eq!(open.pop(), Some(closed), "at <{tag}"),
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn the_page_shows_every_granularity_and_the_funnel() {
    if !ready() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("page.html");
    let db = temp.path().join("db");
    let words = ["--out", out.to_str().unwrap(), "--limit", "6", "--query", "red <apple>"];
    let words = [&words[..], &["--db", db.to_str().unwrap()]].concat();
    let printed = run(&words).unwrap();
    assert!(printed.contains("? red <apple>"), "{printed}");
    let page = fs::read_to_string(&out).unwrap();
    assert_nested(&page);
    assert_eq!(count(&page, "<section>"), 1);
    assert!(page.contains("&ldquo;red &lt;apple&gt;&rdquo;") && !page.contains("<apple>"));
    for dims in [16, 32, 64, 128, 256] {
        assert_eq!(count(&page, &format!("<b>{dims} dims</b>")), 1, "{dims}");
    }
    assert_eq!(count(&page, "<figure"), 5 * 6);
    // The whole vector keeps all of its own.
    assert!(page.contains("6 of 6 kept"));
    assert!(page.contains("<th>rows in</th>") && page.contains("class=\"bar\""));
    // Each thumbnail once, and each that is shown.
    for class in page.split("class=\"pic t").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert_eq!(
            count(&page, &format!("\n.t{class}{{")) + count(&page, &format!("}}.t{class}{{")),
            1
        );
    }
    look(&out, temp.path());
}

#[test]
fn a_folder_of_ones_own_pictures_is_searched() {
    if !ready() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (dir, out) = (temp.path().join("photos"), temp.path().join("page.html"));
    fs::create_dir_all(dir.join("sub")).unwrap();
    for name in ["wide.png", "tall.jpg", "still.gif", "strip.webp"] {
        fs::copy(pictures().join(name), dir.join("sub").join(name)).unwrap();
    }
    fs::write(dir.join("broken.jpg"), b"no picture").unwrap();
    fs::write(dir.join("notes.txt"), b"left alone").unwrap();
    let like = dir.join("sub/wide.png");
    let db = temp.path().join("db");
    let arguments = [
        "--db",
        db.to_str().unwrap(),
        "--dir",
        dir.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--image",
        like.to_str().unwrap(),
    ];
    let printed = run(&arguments).unwrap();
    assert!(printed.contains("4 pictures embedded, 0 unchanged, 0 gone"), "{printed}");
    assert!(printed.contains("skipped: ") && printed.contains("broken.jpg"), "{printed}");
    // A picture is most like itself.
    let answer = printed.lines().skip_while(|l| !l.starts_with("? like the picture")).nth(1);
    assert!(answer.unwrap().trim_start().starts_with("sub/wide.png (1.00)"), "{printed}");
    let page = fs::read_to_string(&out).unwrap();
    assert_nested(&page);
    assert!(page.contains("data:image/jpeg;base64,/9j/"));

    // The next run embeds what has changed, and forgets what is gone.
    let printed = run(&arguments).unwrap();
    assert!(printed.contains("0 pictures embedded, 4 unchanged, 0 gone"), "{printed}");
    fs::copy(pictures().join("turned.jpg"), dir.join("sub/tall.jpg")).unwrap();
    fs::remove_file(dir.join("sub/still.gif")).unwrap();
    fs::write(dir.join("sub/strip.webp"), b"damaged").unwrap();
    let printed = run(&arguments).unwrap();
    assert!(printed.contains("1 pictures embedded, 1 unchanged, 2 gone"), "{printed}");
    assert!(printed.contains("strip.webp"), "{printed}");
    // Another model makes everything anew; other pictures have no business here.
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/clip");
    let other = [&arguments[..], &["--model", clip.to_str().unwrap()]].concat();
    let printed = run(&other).unwrap();
    assert!(printed.contains("everything is embedded again"), "{printed}");
    assert!(printed.contains("2 pictures embedded, 0 unchanged, 0 gone"), "{printed}");
    let refused = run(&["--db", db.to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("not of the built-in pictures"), "{refused}");
}

#[test]
fn wrong_arguments_are_refused_with_a_reason() {
    let refused = |words: &[&str]| run(words).expect_err("must be refused");
    assert!(refused(&["--nothing"]).contains("unknown option --nothing"));
    assert!(refused(&["--limit", "0"]).contains("1 to 100"));
    assert!(refused(&["--query", " "]).contains("some words"));
    assert!(refused(&["--dir", "/no/such/folder"]).contains("/no/such/folder"));
    if ready() {
        let texts = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/text/matryo-text-en");
        let model = refused(&["--model", texts.to_str().unwrap(), "--query", "x"]);
        assert!(model.contains("no vision tower"), "{model}");
    }
}

#[test]
fn base64_is_that_of_the_standard() {
    // RFC 4648, section 10.
    let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
    for (plain, coded) in cases {
        assert_eq!(example::page::base64(plain.as_bytes()), coded);
    }
}

fn chromium() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    names.into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|found| found.status.success())
    })
}

/// Opens the page in a browser: pictures and text must be on it.
fn look(page: &Path, folder: &Path) {
    let Some(browser) = chromium() else {
        eprintln!("SKIPPED, the page was not looked at: no Chromium is installed");
        return;
    };
    let (shot, profile) = (folder.join("page.png"), folder.join("profile"));
    let taken = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--hide-scrollbars", "--window-size=1240,1100"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", shot.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("Chromium starts");
    assert!(shot.is_file(), "{}", String::from_utf8_lossy(&taken.stderr));
    let image = Image::open(&shot).unwrap();
    assert_eq!((image.width(), image.height()), (1240, 1100));
    let mut colours: Vec<[u8; 3]> =
        image.rgb().chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
    let background = colours[0];
    let drawn = colours.iter().filter(|c| **c != background).count();
    assert!(drawn * 20 > colours.len(), "the page is nearly blank: {drawn} pixels");
    colours.sort_unstable();
    colours.dedup();
    // Text alone, or boxes without their pictures, would have few.
    assert!(colours.len() > 800, "only {} colours: are the thumbnails missing?", colours.len());
}

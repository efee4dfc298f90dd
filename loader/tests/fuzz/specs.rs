//! What names shards.

use mae_loader::spec::{Place, resolve};
use proptest::prelude::*;

use crate::mutation::fuzz;

#[test]
fn specs() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a-0.tar", "a-1.tar", "a.tar", "sub.tar"] {
        std::fs::write(folder.path().join(name), b"").unwrap();
    }
    let list = folder.path().join("list.txt");
    let word = prop::sample::select(vec![
        "a-{0..1}.tar",
        "{0,1}",
        "{",
        "{",
        "}",
        "}",
        ",",
        ",",
        "..",
        "..",
        "::",
        "a",
        "z",
        "0",
        "9",
        "-",
        "\\",
        "*",
        "?",
        "[",
        "]",
        "a-",
        ".tar",
        "é",
        " ",
        "$",
        "000",
        "9999999999",
        "18446744073709551616",
        "pipe:",
        "file:",
        "https://host/x",
        "s3://b/x",
        "ftp://h",
        "sub",
        "#",
        "\n",
    ]);
    let text = prop::collection::vec(word, 0..14).prop_map(|words| words.concat());
    fuzz("specs", 2000, &text, |text| {
        let here = format!("{}/{text}", folder.path().display());
        let mut good = false;
        for spec in [&text, &here] {
            if let Ok(set) = resolve(&[spec]) {
                prop_assert!((1..=1_000_000).contains(&set.shards.len()));
                good = true;
            }
        }
        // A command runs from a list under no circumstances.
        std::fs::write(&list, &text).unwrap();
        if let Ok(set) = resolve(&[list.display().to_string()]) {
            let pipe = set
                .shards
                .iter()
                .find(|shard| matches!(shard.place, Place::Pipe(_)));
            prop_assert!(pipe.is_none(), "{:?}", pipe);
        }
        Ok(good)
    });
}

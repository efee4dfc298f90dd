//! Specs to shards, and what is refused.

use super::expansion::range_len;
use super::*;

fn folder(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::write(dir.path().join(file), b"").unwrap();
    }
    dir
}

fn names(dir: &tempfile::TempDir, spec: &str) -> Result<Vec<String>> {
    let spec = dir.path().join(spec).display().to_string();
    Ok(resolve(&[spec])?
        .shards
        .iter()
        .map(|s| s.base_name().to_owned())
        .collect())
}

#[test]
fn files_globs_braces_and_lists_name_shards() {
    let dir = folder(&[
        "a-00.tar",
        "a-01.tar",
        "a-02.tar.gz",
        "a-notes.txt",
        "b.tar",
        "odd{1}.tar",
        ".a-03.tar.partial",
    ]);
    assert_eq!(names(&dir, "b.tar").unwrap(), ["b.tar"]);
    assert_eq!(names(&dir, "odd{1}.tar").unwrap(), ["odd{1}.tar"]);
    assert_eq!(
        names(&dir, "a-*").unwrap(),
        ["a-00.tar", "a-01.tar", "a-02.tar.gz"]
    );
    assert_eq!(
        names(&dir, "a-{01..00}.tar").unwrap(),
        ["a-01.tar", "a-00.tar"]
    );
    let both = format!("b.tar::file:{}/a-00.tar", dir.path().display());
    assert_eq!(names(&dir, &both).unwrap(), ["b.tar", "a-00.tar"]);

    fs::write(
        dir.path().join("list.txt"),
        "# mine\nb.tar\n\na-{00..01}.tar\n",
    )
    .unwrap();
    assert_eq!(
        names(&dir, "list.txt").unwrap(),
        ["b.tar", "a-00.tar", "a-01.tar"]
    );
    fs::write(dir.path().join("list.txt"), "pipe:true\n").unwrap();
    assert!(
        matches!(names(&dir, "list.txt"), Err(Error::Spec { .. })),
        "a list may not run commands"
    );
}

#[test]
fn a_folder_of_one_set_is_that_set_and_of_several_an_error() {
    let dir = folder(&[
        "train-000.tar.gz",
        "train-001.tar.gz",
        "classes.json",
        ".train-002.tar.partial",
    ]);
    assert_eq!(
        names(&dir, "").unwrap(),
        ["train-000.tar.gz", "train-001.tar.gz"]
    );

    fs::write(dir.path().join("test-000.tar.gz"), b"").unwrap();
    let Err(Error::MixedPrefixes { choices, .. }) = names(&dir, "") else {
        panic!("mixed sets were accepted")
    };
    let bases: Vec<_> = choices
        .iter()
        .map(|c| c.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(bases, ["test-*.tar.gz", "train-*.tar.gz"]);
    assert_eq!(
        resolve(&choices[1..]).unwrap().shards.len(),
        2,
        "a choice can be used as it is printed"
    );

    let empty = folder(&["readme.md"]);
    assert!(matches!(names(&empty, ""), Err(Error::NoShards { .. })));
}

#[test]
fn an_index_lists_only_its_own_folder() {
    let dir = folder(&["a.tar"]);
    let index = |url: &str| {
        let text = format!(
            r#"{{"__kind__":"wids-shard-index-v1","wids_version":1,"shardlist":[{{"url":"{url}","nsamples":1,"filesize":0}}]}}"#
        );
        fs::write(dir.path().join("index.json"), text).unwrap();
        names(&dir, "index.json")
    };
    assert_eq!(index("a.tar").unwrap(), ["a.tar"]);
    for hostile in [
        "../a.tar",
        "/etc/passwd",
        "pipe:id",
        "x/../../a.tar",
        "ftp://host/a.tar",
    ] {
        let error = index(hostile).unwrap_err();
        assert!(
            error.to_string().contains("own folder"),
            "{hostile}: {error}"
        );
    }
    assert!(
        index("gone.tar")
            .unwrap_err()
            .to_string()
            .contains("not there")
    );
}

#[test]
fn expansion_is_counted_before_it_is_done() {
    assert_eq!(range_len("000..146"), Ok(147));
    assert_eq!(range_len("10..0..5"), Ok(3));
    assert_eq!(range_len("x"), Ok(1));
    for fine in [
        "a{0..99}{0..99}{0..99}",
        "{a,b{0..9},{c,d}}",
        "x{y}z",
        "\\{1..9999999999\\}",
        "a{0..699999}::b{0..299999}",
    ] {
        assert_eq!(check_expansion(fine), Ok(()), "{fine}");
    }
    let deep = "{".repeat(100);
    let long = format!("{{0..99999}}{}", "x".repeat(60_000));
    for hostile in [
        "{0..9999999999}",
        "{0..999}{0..999}{0..999}",
        "{1..99999999999999999999}",
        "{1..5..9223372036854775807}",
        "{a..f..4294967296}",
        "{a..f..-4294967295}",
        "a{0..699999}::b{0..299999}{0..1}",
        long.as_str(),
        deep.as_str(),
    ] {
        assert!(
            matches!(resolve(&[hostile]), Err(Error::Spec { .. })),
            "{hostile}"
        );
    }
}

#[test]
fn urls_are_expanded_and_keep_their_secrets() {
    let set = resolve(&["https://me:pw@host/a-{0..1}.tar?sig=x"]).unwrap();
    let names: Vec<&str> = set.shards.iter().map(|shard| &*shard.name).collect();
    assert_eq!(names, ["https://host/a-0.tar", "https://host/a-1.tar"]);
    assert_eq!(set.shards[1].base_name(), "a-1.tar");
    assert_eq!(
        set.shards[0].place,
        Place::Url("https://me:pw@host/a-0.tar?sig=x".into())
    );
    let error = resolve(&["ftp://host/a.tar"]).unwrap_err().to_string();
    assert!(error.contains("pipe:"), "{error}");
    let error = resolve(&["s3://bucket/*.tar"]).unwrap_err().to_string();
    assert!(error.contains("braces"), "{error}");
}

#[test]
fn lists_bring_no_more_shards_than_one_spec_may_and_nothing_of_the_environment() {
    let dir = folder(&[]);
    let list = |text: &str| {
        fs::write(dir.path().join("list.txt"), text).unwrap();
        resolve(&[dir.path().join("list.txt").display().to_string()])
    };
    let line = "https://host/{0..499999}.tar\n";
    assert_eq!(list(&line.repeat(2)).unwrap().shards.len(), 1_000_000);
    let error = list(&line.repeat(3)).unwrap_err().to_string();
    assert!(error.contains("more than 1000000"), "{error}");

    let set = list("https://host/${HOME}.tar").unwrap();
    assert_eq!(set.shards[0].name, "https://host/${HOME}.tar");
}

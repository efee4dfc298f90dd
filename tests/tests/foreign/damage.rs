//! Damaged and hostile files are errors, never a panic, and take no more memory than they have bytes.

use std::fs;
use std::path::Path;

use mae_trainer::checkpoint::foreign::ImportOptions;
use mae_trainer::checkpoint::inspect_foreign;
use proptest::prelude::*;

use crate::golden;

/// Reads a file with this content under this name.
fn read(name: &str, content: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    inspect_foreign(&path, &ImportOptions::default()).is_ok()
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(golden().join(name)).unwrap()
}

const FILES: &[&str] = &[
    "full.pth",
    "legacy.pth",
    "tuned.pth",
    "beit.pth",
    "vitmae/model.safetensors",
];

#[test]
fn whole_files_are_read() {
    for name in FILES {
        assert!(read("x", &bytes(name)), "{name}");
    }
}

#[test]
fn files_that_end_early_are_errors() {
    for name in FILES {
        let content = bytes(name);
        for part in 1..40 {
            assert!(
                !read("x", &content[..content.len() * part / 40]),
                "{name} {part}"
            );
        }
    }
}

/// A torch file of the older form: pickles one after the other.
fn legacy(object: &[u8], keys: &[u8], storages: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    [
        magic,
        &b"\x80\x02M\xe9\x03."[..],
        b"\x80\x02}.",
        object,
        keys,
        storages,
    ]
    .concat()
}

/// `{"patch_embed.proj.weight": a tensor}` with this shape and these strides, on a storage of `length` numbers.
fn tensor(shape: &[u32], strides: &[u32], length: u32) -> Vec<u8> {
    let text = |text: &str| {
        [
            &b"X"[..],
            &(text.len() as u32).to_le_bytes(),
            text.as_bytes(),
        ]
        .concat()
    };
    let number = |number: u32| [&b"J"[..], &number.to_le_bytes()].concat();
    let numbers = |list: &[u32]| {
        let all: Vec<u8> = list.iter().flat_map(|&n| number(n)).collect();
        [&b"("[..], &all, b"t"].concat()
    };
    [
        &b"\x80\x02}"[..],
        &text("patch_embed.proj.weight"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        &number(length),
        b"tQ",
        &number(0),
        &numbers(shape),
        &numbers(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.",
    ]
    .concat()
}

#[test]
fn shapes_beyond_their_storage_are_errors() {
    let keys = b"\x80\x02](X\x01\x00\x00\x000e.";
    let storages = [&1u64.to_le_bytes()[..], &1f32.to_le_bytes()].concat();
    let huge = i32::MAX as u32;
    for (shape, strides, length) in [
        // One number that stands for 2^62, or for as many as overflow.
        (vec![huge, huge], vec![0, 0], 1),
        (vec![huge; 4], vec![0; 4], 1),
        (vec![huge; 4], vec![huge; 4], huge),
        (vec![4, 4], vec![4, 1], 15),
        (vec![2], vec![1, 1], 2),
        // A storage that claims more than the file has.
        (vec![huge], vec![1], huge),
        (vec![0, huge], vec![1, 1], 1),
        (vec![], vec![], 1),
    ] {
        let object = tensor(&shape, &strides, length);
        assert!(!read("x", &legacy(&object, keys, &storages)), "{shape:?}");
    }
}

#[test]
fn a_storage_of_no_end_is_an_error() {
    let keys = b"\x80\x02](X\x01\x00\x00\x000e.";
    let object = tensor(&[1, 1, 1, 1], &[1; 4], 1);
    for count in [u64::MAX, u64::MAX / 4, 1 << 40] {
        assert!(!read("x", &legacy(&object, keys, &count.to_le_bytes())));
    }
    // The same in a safetensors header.
    let header =
        br#"{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    assert!(!read("x", &file));
}

#[test]
fn a_pickle_is_never_carried_out() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let command = format!("touch {}", made.display());
    let object = [
        &b"\x80\x02cos\nsystem\n(X"[..],
        &(command.len() as u32).to_le_bytes(),
        command.as_bytes(),
        b"tR.",
    ]
    .concat();
    assert!(!read("x", &legacy(&object, b"\x80\x02].", b"")));
    assert!(!Path::new(&made).exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Changed bytes may go unseen in numbers; they never end in a panic.
    #[test]
    fn changed_bytes_do_not_panic(file in 0..FILES.len(), at in any::<prop::sample::Index>(), to in any::<u8>(), length in 1usize..9) {
        let mut content = bytes(FILES[file]);
        let at = at.index(content.len());
        let end = (at + length).min(content.len());
        content[at..end].fill(to);
        read("x", &content);
    }

    /// In the part that is a pickle, names and lengths.
    #[test]
    fn changed_pickles_do_not_panic(at in 0usize..6000, to in any::<u8>()) {
        let mut content = bytes("legacy.pth");
        content[at] = to;
        read("x", &content);
    }
}

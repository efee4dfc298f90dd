//! Checkpoints of other programs: what timm, transformers and torch wrote gives the same here, and ours comes back to the bit.
//! The files and the numbers are made by tests/reference/foreign.py.

mod damage;
mod export;
mod fit;
mod read;

use std::path::{Path, PathBuf};

use mae_trainer::checkpoint::foreign::ImportOptions;
use safetensors::SafeTensors;
use serde_json::Value;

/// Folder of the golden checkpoints.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden/foreign")
}

fn options(value: &Value) -> ImportOptions {
    serde_json::from_value(value.clone()).unwrap()
}

/// One checkpoint and what is expected of it.
struct Case {
    name: String,
    path: PathBuf,
    options: ImportOptions,
    outputs: Vec<String>,
}

/// Every case, and the numbers.
struct Golden {
    keep: usize,
    cases: Vec<Case>,
    numbers: Vec<u8>,
}

impl Golden {
    fn open() -> Self {
        let read = |name: &str| std::fs::read(golden().join(name)).unwrap();
        let document: Value = serde_json::from_slice(&read("cases.json")).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let case = |case: &Value| Case {
            name: text(&case["name"]),
            path: golden().join(text(&case["path"])),
            options: options(&case["options"]),
            outputs: case["outputs"]
                .as_array()
                .unwrap()
                .iter()
                .map(text)
                .collect(),
        };
        Self {
            keep: document["keep"].as_u64().unwrap() as usize,
            cases: document["cases"]
                .as_array()
                .unwrap()
                .iter()
                .map(case)
                .collect(),
            numbers: read("expected.safetensors"),
        }
    }

    fn case(&self, name: &str) -> &Case {
        self.cases.iter().find(|case| case.name == name).unwrap()
    }

    fn bytes(&self, name: &str) -> &[u8] {
        let tensors = SafeTensors::deserialize(&self.numbers).unwrap();
        tensors.tensor(name).unwrap().data()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        words(self.bytes(name)).map(f32::from_le_bytes).collect()
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes
        .chunks_exact(4)
        .map(|word| std::array::from_fn(|i| word[i]))
}

/// The largest difference over the largest value is at most this.
fn close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest =
        |numbers: &mut dyn Iterator<Item = f32>| numbers.fold(0f32, |a, x| a.max(x.abs()));
    let difference = largest(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let scale = largest(&mut expected.iter().copied());
    assert!(
        difference <= 1e-5 * scale,
        "{what}: {difference} of {scale}"
    );
    assert!(found.iter().all(|x| x.is_finite()), "{what}");
}

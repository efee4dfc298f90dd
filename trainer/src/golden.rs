//! Reads golden files in unit tests. `tests/reference/` has the scripts that say what they hold.

use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use crate::eval::Features;

pub(crate) struct Golden(Vec<u8>);

impl Golden {
    /// Opens `tests/reference/golden/NAME.safetensors`.
    pub(crate) fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden");
        let path = folder.join(format!("{name}.safetensors"));
        Self(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    fn words(&self, tensor: &str, dtype: Dtype) -> Vec<[u8; 4]> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let view = tensors.tensor(tensor).unwrap();
        assert_eq!(view.dtype(), dtype, "{tensor}");
        let words = view.data().chunks_exact(4);
        words.map(|word| word.try_into().unwrap()).collect()
    }

    pub(crate) fn f32s(&self, tensor: &str) -> Vec<f32> {
        let words = self.words(tensor, Dtype::F32);
        words.into_iter().map(f32::from_le_bytes).collect()
    }

    pub(crate) fn u32s(&self, tensor: &str) -> Vec<u32> {
        let words = self.words(tensor, Dtype::U32);
        words.into_iter().map(u32::from_le_bytes).collect()
    }

    /// A set of labelled features.
    pub(crate) fn features(&self, set: &str) -> Features {
        let (data, labels) = (
            self.f32s(&format!("{set}.features")),
            self.u32s(&format!("{set}.labels")),
        );
        let dim = data.len() / labels.len();
        Features::new(data, dim, labels).unwrap()
    }
}

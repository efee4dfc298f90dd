//! Named f32 tensors in a safetensors file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::path::Path;

use mae_model::{StateDict, StateTensor};
use safetensors::tensor::{Dtype, SafeTensors, View, serialize, serialize_to_file};

/// A tensor to write: turned to bytes only while it is its turn.
struct F32View<'a>(&'a StateTensor);

impl View for F32View<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(
            self.0
                .data
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        )
    }

    fn data_len(&self) -> usize {
        size_of_val(self.0.data.as_slice())
    }
}

/// Writes `tensors` to `path`. `format: pt` in the header is what transformers asks for.
pub(super) fn write(path: &Path, tensors: &StateDict) -> io::Result<()> {
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = tensors.iter().map(|(name, tensor)| (name, F32View(tensor)));
    serialize_to_file(views, Some(about), path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    })
}

/// The content of a file of `tensors`.
pub(crate) fn bytes(tensors: &StateDict) -> io::Result<Vec<u8>> {
    let views = tensors.iter().map(|(name, tensor)| (name, F32View(tensor)));
    serialize(views, None).map_err(|error| io::Error::other(error.to_string()))
}

/// Reads all tensors of a file's content.
///
/// # Errors
/// As text, if it is not safetensors or a tensor is not f32.
pub(crate) fn parse(content: &[u8]) -> Result<StateDict, String> {
    let file = SafeTensors::deserialize(content).map_err(|error| error.to_string())?;
    file.iter()
        .map(|(name, view)| {
            if view.dtype() != Dtype::F32 {
                return Err(format!("tensor {name} is {:?}, not F32", view.dtype()));
            }
            let number = |bytes: &[u8]| bytes.try_into().map(f32::from_le_bytes);
            let data = view
                .data()
                .chunks_exact(4)
                .map(number)
                .collect::<Result<_, _>>();
            let data = data.map_err(|_| format!("tensor {name} is cut short"))?;
            Ok((
                name.to_owned(),
                StateTensor {
                    shape: view.shape().to_vec(),
                    data,
                },
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let values = vec![0.1f32, -0.0, f32::MIN_POSITIVE / 2.0, 3e38, 1.0, 2.0];
        let tensors = StateDict::from([
            (
                "a.b".to_owned(),
                StateTensor {
                    shape: vec![2, 3],
                    data: values.clone(),
                },
            ),
            (
                "c".to_owned(),
                StateTensor {
                    shape: vec![1, 1],
                    data: vec![7.0],
                },
            ),
        ]);
        write(&path, &tensors).unwrap();
        let read = parse(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, tensors);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read["a.b"].data), bits(&values));
    }

    #[test]
    fn rubbish_is_an_error() {
        assert!(parse(b"").is_err());
        assert!(parse(&[255; 64]).is_err());
    }
}

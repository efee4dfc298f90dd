//! What can go wrong in the model, with enough said to mend it.

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of the model crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Whoever was told how far a backward is ended it with this.
    #[error(transparent)]
    Told(Box<dyn std::error::Error + Send + Sync>),
    /// Candle refused a tensor operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A configuration that describes no valid model.
    #[error("{0}")]
    Config(String),
    /// Tensors handed to a model that do not fit it.
    #[error("{what}: expected shape {expected:?}, got {actual:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// The shape that the model needs.
        expected: Vec<usize>,
        /// The shape that it was given.
        actual: Vec<usize>,
    },
    /// A loss was asked of a model whose target's fixed parts are not there.
    #[error(
        "the model's target is {target}, and what makes it is not there yet: load a checkpoint's weights, or set the basis or the tokenizer"
    )]
    NoTarget {
        /// The target.
        target: String,
    },
    /// Weights that do not fit the model.
    #[error(
        "the weights do not fit the model:{}",
        list(missing, unexpected, misshapen)
    )]
    StateDict {
        /// Parameters of the model without weights.
        missing: Vec<String>,
        /// Weights without a parameter.
        unexpected: Vec<String>,
        /// Names with both shapes, as text.
        misshapen: Vec<String>,
    },
}

fn list(missing: &[String], unexpected: &[String], misshapen: &[String]) -> String {
    let mut text = String::new();
    for (what, names) in [
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", misshapen),
    ] {
        if names.is_empty() {
            continue;
        }
        let shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        let more = names.len().saturating_sub(8);
        text += &format!(" {what}: {shown}");
        if more > 0 {
            text += &format!(" and {more} more");
        }
        text.push(';');
    }
    text.pop();
    text
}

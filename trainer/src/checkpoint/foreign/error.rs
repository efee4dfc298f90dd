//! Why a file's weights cannot be taken.

use std::io;

/// An error about the content of somebody else's checkpoint; each says what to do about it where that is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The file is not what its format asks for.
    #[error("{0}")]
    Damaged(String),
    /// A file or a model that this build does not take.
    #[error("{0}")]
    Unsupported(String),
    /// Something that the weights do not tell.
    #[error("the weights do not say {what}; give {flag}")]
    Unknown {
        /// What is not known.
        what: String,
        /// The flag that says it, with what to choose.
        flag: String,
    },
    /// Weights that do not fit the model that they seem to be of; see [`mae_model::Error::StateDict`].
    #[error(transparent)]
    Fit(mae_model::Error),
}

pub(super) type Result<T, E = ForeignError> = std::result::Result<T, E>;

/// Shorthand for [`ForeignError::Damaged`].
pub(super) fn damaged(what: impl Into<String>) -> ForeignError {
    ForeignError::Damaged(what.into())
}

/// Shorthand for [`ForeignError::Unsupported`].
pub(super) fn unsupported(what: impl Into<String>) -> ForeignError {
    ForeignError::Unsupported(what.into())
}

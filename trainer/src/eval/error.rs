//! Why an evaluation could not be made.

/// An evaluation's error; each says what to do about it where that is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A set of features without a single row.
    #[error("the {set} set is empty: there is nothing to {verb}")]
    Empty {
        /// Which set: "train" or "test".
        set: &'static str,
        /// What was to be done with it.
        verb: &'static str,
    },
    /// Rows, columns and labels do not fit together.
    #[error("a feature matrix of {values} values and {labels} labels cannot have {dim} columns")]
    Shape {
        /// Number of values.
        values: usize,
        /// Number of labels.
        labels: usize,
        /// Number of columns asked for.
        dim: usize,
    },
    /// Train and test features of different width.
    #[error(
        "the train features have {train} columns and the test features {test}: both must come from the same encoder"
    )]
    Width {
        /// Columns of the train features.
        train: usize,
        /// Columns of the test features.
        test: usize,
    },
    /// A value that is not a finite number.
    #[error(
        "feature {column} of {sample} is not finite: the weights have diverged, or are not what the model expects; evaluate another checkpoint"
    )]
    NotFinite {
        /// The sample: its shard and key, or its row.
        sample: String,
        /// Column in the matrix.
        column: usize,
    },
    /// A sample whose label is missing, cannot be understood or is beyond the list of classes.
    #[error("{0}; correct the label or classes.json, or name another field with --label-field")]
    Label(#[source] mae_loader::Error),
    /// A label beyond the list of classes.
    #[error(
        "label {label} is beyond the {classes} classes that have names; correct the label, the list in classes.json, or --label-field"
    )]
    UnknownClass {
        /// The label.
        label: usize,
        /// How many classes have names.
        classes: usize,
    },
    /// More classes than train samples.
    #[error(
        "the train set has {samples} samples for {classes} classes, fewer than one each; give more, or number the classes from 0 without gaps"
    )]
    FewSamples {
        /// Number of train samples.
        samples: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A class that nothing can be classified as.
    #[error(
        "{samples} test {} of class {class}, of which the train set has no sample; train on all classes of the test set, or leave these samples out",
        if *.samples == 1 { "sample is" } else { "samples are" }
    )]
    OnlyInTest {
        /// The class, with its name where it has one.
        class: String,
        /// How many test samples are of this class.
        samples: usize,
    },
    /// More neighbours than there are samples.
    #[error(
        "{k} neighbours cannot vote where the train set has {samples} samples; choose a smaller --k"
    )]
    Neighbours {
        /// How many were to vote.
        k: usize,
        /// Number of train samples.
        samples: usize,
    },
    /// A head whose loss is not a finite number.
    #[error("the probe's loss is not finite at a learning rate of {lr}; choose a lower one")]
    Diverged {
        /// The learning rate.
        lr: f64,
    },
    /// One class alone, or none.
    #[error("the train set holds {classes} class(es); telling classes apart takes at least two")]
    Classes {
        /// How many classes the train set holds.
        classes: usize,
    },
    /// An option out of its range.
    #[error("{name} must be {must}")]
    Option {
        /// The option's name.
        name: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// Nothing would be visible, or nothing removed.
    #[error(
        "a mask ratio of {ratio} leaves {keep} of {patches} patches visible; at least one must be, and at least one removed: choose a \
         ratio between {:.3} and {:.3}",
        1.0 / *patches as f64,
        1.0 - 1.0 / *patches as f64
    )]
    MaskRatio {
        /// The ratio asked for.
        ratio: f64,
        /// Patches of an image.
        patches: usize,
        /// How many of them would be visible.
        keep: usize,
    },
    /// Patches that cannot be chosen as asked for.
    #[error("--mask-sampling: {reason}")]
    MaskSampling {
        /// Why, and what could.
        reason: String,
    },
    /// A key that no sample has.
    #[error(
        "no image has the key `{key}`; the data hold {samples} images, the first of them `{first}`; a key is a file's path in its shard up to the first dot of its name (tar -tf lists them)"
    )]
    UnknownImage {
        /// The key.
        key: String,
        /// Images in the data.
        samples: u64,
        /// The key of the first.
        first: String,
    },
    /// A key that several samples have.
    #[error("several images have the key `{key}`; name one of them: {}", choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "))]
    AmbiguousImage {
        /// The key.
        key: String,
        /// Shard and key of some of them.
        choices: Vec<String>,
    },
    /// An image that was asked for and cannot be decoded.
    #[error("{sample} cannot be shown: {reason}; choose another image")]
    Unreadable {
        /// Shard and key.
        sample: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A dataset without labels where they are needed.
    #[error(
        "the dataset has no labels; name the member or field that holds them with --label-field, for example json:wnid"
    )]
    NoLabels,
    /// The loader failed.
    #[error(transparent)]
    Loader(#[from] mae_loader::Error),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] mae_model::Error),
    /// The tensor library failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// A result whose error is an [`EvalError`].
pub type Result<T, E = EvalError> = std::result::Result<T, E>;

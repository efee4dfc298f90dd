//! The models against PyTorch: loss, prediction, every gradient and twenty optimiser steps on the same weights,
//! images and masks. The numbers and the scripts that made them are in `tests/reference/`.

mod compare;
mod formulas;
mod golden;
mod mae;
mod vit;

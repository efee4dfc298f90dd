//! The classifier against timm.

use candle_core::Device;
use mae_model::{Accumulate, Activations, Pooling, VitClassifier, VitInput, VitTraining};

use crate::compare::{all_learn, close, gradients_agree};
use crate::golden::{Golden, number};

struct Case {
    golden: Golden,
    vit: VitClassifier,
    input: VitInput,
    batch: usize,
}

impl Case {
    fn open(name: &str, pooling: Pooling) -> Self {
        let golden = Golden::open(name);
        let classes = number(&golden.facts["model"]["classes"]);
        let vit =
            VitClassifier::new(golden.vit_config(), classes, pooling, &Device::Cpu, 0).unwrap();
        let labels = golden.u32s("labels");
        let mut targets = vec![0f32; labels.len() * classes];
        for (row, &label) in targets.chunks_exact_mut(classes).zip(&labels) {
            row[label as usize] = 1.0;
        }
        let input = VitInput::labelled(&vit, &golden.u8s("pixels"), &targets).unwrap();
        Self {
            golden,
            vit,
            input,
            batch: labels.len(),
        }
    }

    fn loaded(self) -> Self {
        self.vit.load_state_dict(&self.golden.weights()).unwrap();
        self
    }

    /// Loss and flat gradient.
    fn step(&self) -> (f32, Vec<f32>) {
        let mut workspace = self
            .vit
            .workspace(self.batch, Activations::Keep, false)
            .unwrap();
        let grads = self.vit.params.zeros_like_flat().unwrap();
        let training = VitTraining::default();
        self.vit
            .forward(&self.input, &training, &mut workspace)
            .unwrap();
        let loss = workspace.loss().unwrap();
        self.vit
            .backward(&training, &mut workspace, &grads, 1.0, Accumulate::Add)
            .unwrap();
        (loss, grads.to_vec1().unwrap())
    }
}

fn each_case(check: impl Fn(&str, Case)) {
    check("vit_token", Case::open("vit_token", Pooling::Token));
    check("vit_avg", Case::open("vit_avg", Pooling::Avg));
}

#[test]
fn logits_and_loss_agree() {
    each_case(|name, case| {
        let case = case.loaded();
        let mut workspace = case
            .vit
            .workspace(case.batch, Activations::Keep, false)
            .unwrap();
        let logits = case.vit.logits(&case.input, &mut workspace).unwrap();
        close(&logits, &case.golden.f32s("logits"), 1e-4).unwrap_or_else(|e| panic!("{name}: {e}"));
        close(&[case.step().0], &case.golden.f32s("loss"), 1e-5)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    });
}

#[test]
fn every_gradient_agrees() {
    each_case(|_, case| {
        let case = case.loaded();
        gradients_agree(&case.vit.params, &case.step().1, &case.golden);
    });
}

#[test]
fn every_parameter_of_a_fresh_model_learns() {
    each_case(|name, case| {
        all_learn(&case.vit.params, &case.step().1).unwrap_or_else(|e| panic!("{name}: {e}"));
    });
}

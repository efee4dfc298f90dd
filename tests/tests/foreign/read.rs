//! The same tokens, features, logits, loss and prediction as in the program that wrote the file.

use candle_core::Device;
use mae_model::{Activations, MaeInput, Pooling, VitInput, ids_keep};
use mae_trainer::checkpoint::{load_classifier, load_encoder, load_mae};

use crate::{Case, Golden, close, words};

const BATCH: usize = 2;

#[test]
fn every_checkpoint_gives_the_same_here() {
    let golden = Golden::open();
    assert!(golden.cases.len() >= 11);
    for case in &golden.cases {
        check(&golden, case);
    }
}

fn check(golden: &Golden, case: &Case) {
    let pixels = golden.bytes("pixels");
    let compare = |what: &str, found: &[f32]| {
        let name = format!("{}.{what}", case.name);
        close(&name, found, &golden.floats(&name));
    };
    let (encoder, source) =
        load_encoder(&case.path, &case.options, &candle_core::Device::Cpu).unwrap();
    assert_eq!((source.step(), source.seed()), (None, 0));
    let mut workspace = encoder.workspace(BATCH).unwrap();
    let tokens = encoder.encode(pixels, &mut workspace).unwrap();
    compare("tokens", &tokens.flatten_all().unwrap().to_vec1().unwrap());
    for (what, pooling) in [("token", Pooling::Token), ("mean", Pooling::Avg)] {
        compare(
            what,
            &encoder.features(pixels, pooling, &mut workspace).unwrap(),
        );
    }
    let has = |what: &str| case.outputs.iter().any(|output| output == what);
    let classifier = load_classifier(&case.path, &case.options, &candle_core::Device::Cpu);
    assert_eq!(classifier.is_ok(), has("logits"), "{}", case.name);
    if let Ok((vit, _)) = classifier {
        let input = VitInput::images(&vit, pixels).unwrap();
        let mut workspace = vit.workspace(BATCH, Activations::Recompute, false).unwrap();
        compare("logits", &vit.logits(&input, &mut workspace).unwrap());
    }
    let mae = load_mae(&case.path, &case.options, &candle_core::Device::Cpu);
    assert_eq!(mae.is_ok(), has("loss"), "{}", case.name);
    if let Ok((mae, source)) = mae {
        assert_eq!(source.mask_ratio(), 0.75);
        let restore: Vec<u32> = words(golden.bytes("ids_restore"))
            .map(u32::from_le_bytes)
            .collect();
        let patches = restore.len() / BATCH;
        let kept = ids_keep(&restore, patches, golden.keep);
        let input =
            MaeInput::from_host(&mae.config, pixels, &kept, &restore, &Device::Cpu).unwrap();
        let mut workspace = mae
            .workspace(BATCH, golden.keep, Activations::Recompute)
            .unwrap();
        mae.forward(&input, &mut workspace).unwrap();
        compare("loss", &[workspace.loss().unwrap()]);
        compare("prediction", &mae.predict(&input, &mut workspace).unwrap());
    }
}

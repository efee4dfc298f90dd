use super::*;
use crate::config::compare::ALWAYS_FREE;

/// Of an encoder that has nothing in common with a named model.
fn encoder() -> VitConfig {
    VitConfig {
        image_size: (16, 24),
        patch_size: 4,
        channels: 1,
        dim: 24,
        depth: 2,
        heads: 3,
        mlp_ratio: 2.5,
        norm_eps: 1e-5,
        mean: vec![0.4],
        std: vec![0.3],
        relative_positions: false,
    }
}

fn raw() -> RawFinetune {
    RawFinetune {
        checkpoint: Some("weights".into()),
        data: Some(vec!["a.tar".into()]),
        output_dir: Some("out".into()),
        ..Default::default()
    }
}

fn resolve(raw: RawFinetune) -> Result<FinetuneConfig> {
    FinetuneConfig::resolve(raw, |_, _| Ok(encoder()))
}

fn reread(toml: &str) -> RawFinetune {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), toml).unwrap();
    RawFinetune::from_toml_file(file.path()).unwrap()
}

/// As when a run goes on by its config.toml: the checkpoint may be gone.
fn go_on(toml: &str) -> FinetuneConfig {
    FinetuneConfig::resolve(reread(toml), |_, _| panic!("the settings say it all")).unwrap()
}

#[test]
fn the_saved_file_is_the_same_configuration() {
    let config = resolve(raw()).unwrap();
    assert_eq!(config.vit(), encoder());
    assert_eq!(go_on(&config.to_toml().unwrap()), config);
}

#[test]
fn blocks_that_are_trained_are_those_that_are_not_frozen() {
    let tuned = |tune, base: RawFinetune| {
        let flags = RawFinetune {
            tune_blocks: tune,
            ..Default::default()
        };
        resolve(flags.over(base).unwrap()).map(|config| config.freeze_blocks)
    };
    assert_eq!(tuned(Some(0), raw()).unwrap(), 2);
    assert_eq!(tuned(Some(2), raw()).unwrap(), 0);
    assert_eq!(tuned(None, raw()).unwrap(), 0);
    // A flag wins over the other setting in a file.
    let file = RawFinetune {
        freeze_blocks: Some(2),
        ..raw()
    };
    assert_eq!(tuned(Some(1), file).unwrap(), 1);
}

#[test]
fn settings_that_say_nothing_of_the_mlp_ratio_mean_4() {
    let vit = VitConfig {
        mlp_ratio: 4.0,
        ..encoder()
    };
    let config = FinetuneConfig::resolve(raw(), |_, _| Ok(vit)).unwrap();
    let toml = config.to_toml().unwrap();
    let old = toml.replace("mlp_ratio = 4.0\n", "");
    assert_ne!(old, toml);
    assert_eq!(go_on(&old), config);
    let mut state = serde_json::to_value(&config).unwrap();
    state.as_object_mut().unwrap().remove("mlp_ratio");
    assert_eq!(
        serde_json::from_value::<FinetuneConfig>(state).unwrap(),
        config
    );
    let other = resolve(raw()).unwrap();
    let found = other.differences(&config, 1);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].to_string(),
        "mlp_ratio: the checkpoint has 4.0, this run 2.5"
    );
}

#[test]
fn dimensions_that_the_checkpoint_does_not_have_are_refused() {
    // However many are given by flags: epsilon and MLP ratio have none, so the checkpoint is asked.
    let config = resolve(raw()).unwrap();
    let given = RawFinetune {
        mlp_ratio: None,
        norm_eps: None,
        depth: Some(3),
        ..reread(&config.to_toml().unwrap())
    };
    let found = resolve(given).unwrap_err().to_string();
    assert!(found.contains("2 blocks"), "{found}");
}

/// A name in a list that no field has would be a setting silently compared.
#[test]
fn every_free_setting_exists() {
    let all = resolve(RawFinetune {
        checkpoint_key: Some("k".into()),
        model: Some("mae-tiny-patch4".into()),
        cache: Some("c".into()),
        prometheus: Some("9400".parse().unwrap()),
        ..raw()
    });
    let fields = serde_json::to_value(all.unwrap()).unwrap();
    for name in ALWAYS_FREE.iter().chain(FREE) {
        assert!(fields.get(*name).is_some(), "{name}");
    }
}

#[test]
fn errors_name_the_flag() {
    type Change = fn(&mut RawFinetune);
    let cases: [(&str, Change); 10] = [
        ("--output-dir", |raw| raw.output_dir = None),
        ("--data", |raw| raw.data = None),
        ("--blr", |raw| (raw.lr, raw.blr) = (Some(1.0), Some(1.0))),
        ("--crop-scale takes two numbers, as in 0.08,1.0", |raw| {
            raw.crop_scale = Some(vec![0.5]);
        }),
        ("--crop-scale 0.5,0.4", |raw| {
            raw.crop_scale = Some(vec![0.5, 0.4])
        }),
        ("--eval-every", |raw| raw.eval_every = Some(0)),
        ("--min-lr", |raw| raw.min_lr = Some(f64::NAN)),
        ("--drop-path", |raw| raw.drop_path = Some(1.0)),
        ("--clip-grad", |raw| raw.clip_grad = Some(0.0)),
        ("a warm-up of 9 epochs does not fit into 9 epochs", |raw| {
            (raw.warmup_epochs, raw.epochs) = (Some(9.0), Some(9));
        }),
    ];
    for (expected, change) in cases {
        let mut raw = raw();
        change(&mut raw);
        let found = resolve(raw).unwrap_err().to_string();
        assert!(found.contains(expected), "{found}");
    }
}

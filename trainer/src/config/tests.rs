use super::*;

fn raw() -> RawPretrain {
    RawPretrain {
        data: Some(vec!["a.tar".into()]),
        output_dir: Some("out".into()),
        model: Some("mae-tiny-patch4".into()),
        ..Default::default()
    }
}

fn message(raw: RawPretrain) -> String {
    PretrainConfig::resolve(raw).unwrap_err().to_string()
}

#[test]
fn defaults_are_the_references() {
    let config = PretrainConfig::resolve(raw()).unwrap();
    assert_eq!(
        (config.epochs, config.warmup_epochs, config.batch_size),
        (400, 40.0, 64)
    );
    assert_eq!(config.lr, 1.5e-4 * 64.0 / 256.0);
    assert_eq!(
        (config.beta1, config.beta2, config.weight_decay),
        (0.9, 0.95, 0.05)
    );
    assert_eq!(
        config.input_size,
        InputSize {
            height: 32,
            width: 32
        }
    );
    assert_eq!(config.keep(), 16);
    assert_eq!(config.clip_grad, None);
}

#[test]
fn the_base_rate_scales_with_the_effective_batch() {
    let raw = RawPretrain {
        batch_size: Some(128),
        accum_iter: Some(4),
        blr: Some(1e-3),
        ..raw()
    };
    assert_eq!(PretrainConfig::resolve(raw).unwrap().lr, 2e-3);
}

#[test]
fn free_dimensions_override_the_name() {
    let raw = RawPretrain {
        patch_size: Some(6),
        input_size: Some(InputSize {
            height: 36,
            width: 48,
        }),
        dim: Some(24),
        heads: Some(2),
        ..raw()
    };
    let model = PretrainConfig::resolve(raw).unwrap().mae();
    assert_eq!((model.grid(), model.vit.dim), ((6, 8), 24));
}

#[test]
fn heads_follow_a_width_that_they_do_not_divide() {
    let heads = |name: &str, dim, decoder_dim| {
        let config = PretrainConfig::resolve(RawPretrain {
            model: Some(name.into()),
            dim,
            decoder_dim,
            ..raw()
        });
        let config = config.unwrap();
        (config.heads, config.decoder_heads)
    };
    // Where the model's divide the width they stay.
    assert_eq!(heads("mae-base-patch16", None, Some(128)), (12, 16));
    assert_eq!(heads("mae-base-patch16", Some(384), Some(768)), (12, 16));
    // Else heads keep their width: 64 in this encoder, 32 in this decoder, or more where that does not divide.
    assert_eq!(heads("mae-base-patch16", Some(640), Some(200)), (10, 5));
    assert_eq!(heads("mae-base-patch16", Some(64), Some(100)), (1, 2));
    assert_eq!(heads("mae-tiny-patch4", None, Some(128)), (6, 4));
    assert_eq!(heads("mae-tiny-patch4", None, Some(256)), (6, 8));
    assert_eq!(heads("mae-tiny-patch4", Some(256), Some(32)), (8, 1));
    assert_eq!(heads("mae-tiny-patch4", None, Some(20)), (6, 1));
}

#[test]
fn meaningless_widths_name_their_flags() {
    let error = message(RawPretrain {
        decoder_dim: Some(64),
        decoder_heads: Some(3),
        ..raw()
    });
    assert!(
        error.contains("--decoder-heads 3") && error.contains("--decoder-dim 64"),
        "{error}"
    );
    let error = message(RawPretrain {
        heads: Some(5),
        ..raw()
    });
    assert!(
        error.contains("--heads 5") && error.contains("--dim 192"),
        "{error}"
    );
    let error = message(RawPretrain {
        decoder_dim: Some(30),
        ..raw()
    });
    assert!(
        error.contains("--decoder-dim 30") && error.contains("32"),
        "{error}"
    );
    for (flag, change) in [
        (
            "--decoder-depth",
            RawPretrain {
                decoder_depth: Some(0),
                ..raw()
            },
        ),
        (
            "--decoder-dim",
            RawPretrain {
                decoder_dim: Some(0),
                ..raw()
            },
        ),
        (
            "--decoder-heads",
            RawPretrain {
                decoder_heads: Some(0),
                ..raw()
            },
        ),
    ] {
        let error = message(change);
        assert!(error.contains(&format!("{flag} must")), "{error}");
    }
}

#[test]
fn the_saved_file_is_the_same_configuration() {
    for extra in [
        RawPretrain::default(),
        RawPretrain {
            input_size: Some(InputSize {
                height: 32,
                width: 64,
            }),
            clip_grad: Some(0.3),
            window: Some(WindowSize::Shards(4)),
            resume: Some(Resume::From("x y".into())),
            max_steps: Some(7),
            encoder_mask_tokens: Some(true),
            data: Some(vec!["a.tar@0.7".into(), "b c.tar@0.3".into()]),
            epoch_samples: Some(1000),
            lr: Some(0.1 + 0.2),
            ..Default::default()
        },
    ] {
        let config = PretrainConfig::resolve(extra.over(raw()).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CONFIG_FILE);
        std::fs::write(&path, config.to_toml().unwrap()).unwrap();
        let again = PretrainConfig::resolve(RawPretrain::from_toml_file(&path).unwrap()).unwrap();
        assert_eq!(again, config);
    }
}

#[test]
fn errors_name_the_flag() {
    assert!(
        message(RawPretrain {
            model: None,
            ..raw()
        })
        .contains("mae-base-patch16")
    );
    assert!(
        message(RawPretrain {
            output_dir: None,
            ..raw()
        })
        .contains("--output-dir")
    );
    assert!(
        message(RawPretrain {
            data: None,
            ..raw()
        })
        .contains("--data")
    );
    assert!(
        message(RawPretrain {
            data: Some(vec!["a@1".into(), "b".into()]),
            ..raw()
        })
        .contains("SPEC@WEIGHT")
    );
    assert!(
        message(RawPretrain {
            epoch_samples: Some(0),
            ..raw()
        })
        .contains("--epoch-samples")
    );
    assert!(
        message(RawPretrain {
            batch_size: Some(0),
            ..raw()
        })
        .contains("--batch-size")
    );
    assert!(
        message(RawPretrain {
            lr: Some(1.0),
            blr: Some(1.0),
            ..raw()
        })
        .contains("--blr")
    );
    assert!(
        message(RawPretrain {
            lr: Some(f64::NAN),
            ..raw()
        })
        .contains("--lr")
    );
    assert!(
        message(RawPretrain {
            warmup_epochs: Some(9.0),
            epochs: Some(9),
            ..raw()
        })
        .contains("--warmup-epochs")
    );
    assert!(
        message(RawPretrain {
            mask_ratio: Some(1.0),
            ..raw()
        })
        .contains("--mask-ratio")
    );
    assert!(
        message(RawPretrain {
            mask_ratio: Some(0.0),
            ..raw()
        })
        .contains("--mask-ratio")
    );
    assert!(
        message(RawPretrain {
            crop_scale: Some(vec![0.5]),
            ..raw()
        })
        .contains("--crop-scale")
    );
    assert!(
        message(RawPretrain {
            clip_grad: Some(0.0),
            ..raw()
        })
        .contains("--clip-grad")
    );
    assert!(
        message(RawPretrain {
            channels: Some(4),
            ..raw()
        })
        .contains("channels")
    );
    let misfit = RawPretrain {
        input_size: Some(InputSize {
            height: 30,
            width: 32,
        }),
        ..raw()
    };
    assert!(message(misfit).contains("30x32"));
}

#[test]
fn the_resume_command_survives_a_shell() {
    assert_eq!(shell_word(Path::new("runs/a-1")), "runs/a-1");
    assert_eq!(shell_word(Path::new("my run's")), r"'my run'\''s'");
}

#[test]
fn evaluation_keeps_the_references_margin() {
    assert_eq!(eval_resize((224, 224)), 256);
    assert_eq!(eval_resize((448, 448)), 512);
    assert_eq!(eval_resize((32, 32)), 32);
}

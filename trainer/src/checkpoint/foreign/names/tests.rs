use super::*;

fn ours(naming: &Naming, name: &str) -> String {
    match naming.meaning(name) {
        Meaning::Ours(name) => name,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn prefixes_are_found() {
    for (names, prefix) in [
        (vec!["patch_embed.proj.weight", "cls_token"], ""),
        (vec!["module.patch_embed.proj.weight"], "module."),
        (
            vec!["head.mlp.0.weight", "backbone.patch_embed.proj.weight"],
            "backbone.",
        ),
        (
            vec![
                "module.momentum_encoder.patch_embed.proj.weight",
                "module.base_encoder.patch_embed.proj.weight",
            ],
            "module.base_encoder.",
        ),
        (
            vec!["vit.embeddings.patch_embeddings.projection.weight"],
            "vit.",
        ),
    ] {
        assert_eq!(Naming::of(names.into_iter()).unwrap().prefix, prefix);
    }
    let error = Naming::of(["conv1.weight"].into_iter())
        .unwrap_err()
        .to_string();
    assert!(error.contains("conv1.weight"), "{error}");
}

#[test]
fn every_form_of_hugging_face_is_read() {
    let naming = Naming::hub("vit.");
    for (theirs, name) in [
        (
            "vit.encoder.layer.3.attention.attention.query.bias",
            "blocks.3.attn.q.bias",
        ),
        ("vit.layers.3.attention.q_proj.bias", "blocks.3.attn.q.bias"),
        ("vit.layers.0.mlp.fc2.weight", "blocks.0.mlp.fc2.weight"),
        (
            "vit.encoder.layer.0.output.dense.weight",
            "blocks.0.mlp.fc2.weight",
        ),
        (
            "decoder.decoder_layers.1.attention.output.dense.weight",
            "decoder_blocks.1.attn.proj.weight",
        ),
        (
            "decoder.decoder_encoder.layer.1.attention.output.dense.weight",
            "decoder_blocks.1.attn.proj.weight",
        ),
        (
            "decoder.decoder_layers.1.layernorm_after.bias",
            "decoder_blocks.1.norm2.bias",
        ),
        ("vit.layernorm.weight", "norm.weight"),
        ("decoder.decoder_norm.weight", "decoder_norm.weight"),
        ("classifier.weight", "head.weight"),
    ] {
        assert_eq!(ours(&naming, theirs), name);
    }
    assert_eq!(naming.meaning("vit.pooler.dense.weight"), Meaning::LeftOut);
    assert_eq!(
        naming.meaning("vit.embeddings.register_tokens"),
        Meaning::Unknown
    );
    assert_eq!(
        naming.meaning("vit.encoder.layer.03.layernorm_after.bias"),
        Meaning::Unknown
    );
}

#[test]
fn names_go_both_ways() {
    let old = Naming::hub("vit.");
    let new = Naming {
        present: true,
        ..Naming::hub("")
    };
    for (naming, name) in [
        (&old, "blocks.7.mlp.fc1.bias"),
        (&new, "blocks.7.norm1.bias"),
        (&old, "decoder_blocks.2.attn.proj.weight"),
        (&new, "cls_token"),
        (&old, "decoder_pred.bias"),
        (&old, "blocks.1.ls2.gamma"),
    ] {
        let theirs = naming.theirs(name);
        assert_eq!(theirs.len(), 1, "{theirs:?}");
        assert_eq!(ours(naming, &theirs[0]), name);
    }
    assert_eq!(
        old.theirs("blocks.0.attn.qkv.bias"),
        ["query", "key", "value"]
            .map(|part| format!("vit.encoder.layer.0.attention.attention.{part}.bias"))
    );
}

#[test]
fn parts_of_other_programs_are_left_out() {
    let naming = Naming::of(["module.base_encoder.patch_embed.proj.weight"].into_iter()).unwrap();
    assert_eq!(
        naming.meaning("module.momentum_encoder.cls_token"),
        Meaning::LeftOut
    );
    assert_eq!(
        naming.meaning("module.base_encoder.head.0.weight"),
        Meaning::LeftOut
    );
    assert_eq!(
        naming.meaning("module.base_encoder.blocks.0.attn.q_norm.weight"),
        Meaning::Unknown
    );
    assert_eq!(
        ours(&naming, "module.base_encoder.blocks.0.gamma_1"),
        "blocks.0.ls1.gamma"
    );
    assert_eq!(
        naming.theirs("norm.bias"),
        ["module.base_encoder.norm.bias"]
    );
}

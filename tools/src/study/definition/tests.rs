use super::*;

const HEAD: &str = "title = 'T'\nknob = 'k'\nevaluate = ['knn']\n";

fn parse(rest: &str) -> anyhow::Result<Definition> {
    Definition::parse(&format!("{HEAD}{rest}"))
}

fn refused(rest: &str) -> String {
    format!("{:#}", parse(rest).unwrap_err())
}

#[test]
fn a_grid_is_every_combination_and_one_knob_has_places() {
    let study = parse(
        "[grid]\npretrain.mask-ratio = [0.5, 0.75]\npretrain.mask-sampling = ['random', 'block']",
    )
    .unwrap();
    let names: Vec<&str> = study.variants.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "mask_ratio 0.5, mask_sampling random",
            "mask_ratio 0.5, mask_sampling block",
            "mask_ratio 0.75, mask_sampling random",
            "mask_ratio 0.75, mask_sampling block"
        ]
    );
    assert_eq!(
        study.variants[1].pretrain["mask_ratio"].as_float(),
        Some(0.5)
    );
    assert_eq!(
        study.variants[1].pretrain["mask_sampling"].as_str(),
        Some("block")
    );
    assert!(study.variants.iter().all(|variant| variant.at.is_none()));

    let study = parse("[grid]\npretrain.decoder_depth = [1, 8]").unwrap();
    let places: Vec<_> = study.variants.iter().map(|variant| variant.at).collect();
    assert_eq!(places, [Some(1.0), Some(8.0)]);
}

#[test]
fn what_is_no_study_is_refused_with_what_is_wrong() {
    let variant = "[[variant]]\nname = 'a'\n";
    assert!(refused("").contains("neither"));
    assert!(refused("colour = 1\n").contains("colour"));
    assert!(refused("[[variant]]\nat = 1\n").contains("name"));
    let twice = format!("{variant}pretrain = {{ epochs = 1 }}\n{variant}");
    assert!(refused(&twice).contains("two variants are called a"));
    let same = format!("{variant}[[variant]]\nname = 'b'\n");
    assert!(refused(&same).contains("the same settings"));
    let own = format!("{variant}pretrain = {{ output-dir = 'x' }}\n");
    assert!(refused(&own).contains("output_dir"));
    let tuned = format!("{variant}finetune = {{ epochs = 1 }}\n");
    assert!(refused(&tuned).contains("does not ask for it"));
    let both = format!("{variant}[grid]\npretrain.epochs = [1]\n");
    assert!(refused(&both).contains("not both"));
    assert!(refused("[grid]\npretrain.epochs = 3\n").contains("no list"));
    assert!(refused(&format!("seeds = [1, 1]\n{variant}")).contains("seed 1 stands twice"));
    // The line at fault is named.
    assert!(
        refused("seeds = 'x'\n").contains("line 4"),
        "{}",
        refused("seeds = 'x'\n")
    );
}

#[test]
fn settings_of_the_command_line_go_into_the_base() {
    let mut study = parse("[pretrain]\nepochs = 3\n[[variant]]\nname = 'a'\n").unwrap();
    let set: Vec<Setting> = [
        "pretrain.epochs=20",
        "pretrain.model=mae-micro-patch4",
        "finetune.layer-decay=0.75",
    ]
    .map(|text| text.parse().unwrap())
    .to_vec();
    study.set(&set).unwrap();
    assert_eq!(study.pretrain["epochs"].as_integer(), Some(20));
    assert_eq!(study.pretrain["model"].as_str(), Some("mae-micro-patch4"));
    assert_eq!(study.finetune["layer_decay"].as_float(), Some(0.75));
    // What replaces another setting on the command line does so here.
    study.set(&["pretrain.lr=0.1".parse().unwrap()]).unwrap();
    study.set(&["pretrain.blr=0.2".parse().unwrap()]).unwrap();
    assert!(!study.pretrain.contains_key("lr"));
    assert_eq!(study.pretrain["blr"].as_float(), Some(0.2));
    let unknown: Setting = "pretrain.epoch=1".parse().unwrap();
    assert!(study.set(&[unknown]).is_err());
    let tokenizer: Setting = "tokenizer.epochs=1".parse().unwrap();
    assert!(study.set(&[tokenizer]).is_err());
    let own: Setting = "pretrain.seed=1".parse().unwrap();
    assert!(study.set(&[own]).is_err());
    for wrong in ["epochs=3", "pretrain.epochs", "train.epochs=3"] {
        assert!(wrong.parse::<Setting>().is_err(), "{wrong}");
    }
}

#[test]
fn variants_are_chosen_by_name() {
    let mut study = parse("[grid]\npretrain.epochs = [1, 2, 3]").unwrap();
    assert!(study.keep(&["epochs 4".into()]).is_err());
    study.keep(&["epochs 3".into(), "epochs 1".into()]).unwrap();
    let names: Vec<&str> = study.variants.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["epochs 1", "epochs 3"]);
    study.keep(&[]).unwrap();
    assert_eq!(study.variants.len(), 2);
}

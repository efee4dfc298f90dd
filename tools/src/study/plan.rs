//! What is to be done for a study: tasks, each a process of its own with a folder of its own, and which waits for which.
//!
//! Variants that differ in fine-tuning alone share their pre-training.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use mae_model::VitConfig;
use mae_trainer::config::TargetKind;
use mae_trainer::tokenizer::{RawTokenizer, TokenizerRun};
use mae_trainer::{FinetuneConfig, PretrainConfig, RawFinetune, RawPretrain};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::definition::{Definition, Metric, Variant};
use super::settings::{Part, merged};

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Trains the tokenizer that variants with tokens as targets share.
    Tokenizer,
    Pretrain,
    /// Draws reconstructions.
    Pictures,
    Measure(Metric),
}

impl Stage {
    /// As files and people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Pretrain => "pretrain",
            Self::Pictures => "pictures",
            Self::Measure(metric) => metric.key(),
        }
    }
}

/// A process to run.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) stage: Stage,
    /// As messages and the record call it.
    pub(super) name: String,
    /// Where its output lies, from the study's folder.
    pub(super) folder: PathBuf,
    /// What it is told, but for where things lie and what it may use of the machine.
    pub(super) settings: Table,
    /// The task whose output it reads.
    pub(super) after: Option<usize>,
}

/// The tasks of one variant from one seed, by their places in [`Plan::tasks`].
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) pretrain: usize,
    pub(super) pictures: usize,
    /// In the order of the study's metrics.
    pub(super) measures: Vec<(Metric, usize)>,
}

/// All that is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order in which they are begun where nothing holds them up.
    pub(super) tasks: Vec<Task>,
    /// By variant, then by seed, in the study's order.
    pub(super) runs: Vec<Vec<Run>>,
}

impl Plan {
    /// Works out the tasks, and checks every variant's settings as the trainings themselves will.
    ///
    /// # Errors
    /// Naming the variant whose settings are not ones.
    pub(super) fn of(study: &Definition) -> anyhow::Result<Self> {
        let folders = folders(&study.variants);
        let mut plan = Plan {
            tasks: vec![],
            runs: vec![vec![]; study.variants.len()],
        };
        for &seed in &study.seeds {
            for (index, variant) in study.variants.iter().enumerate() {
                let about = Of {
                    study,
                    variant,
                    seed,
                    folder: &folders[index],
                };
                let run = plan
                    .run(&about)
                    .with_context(|| format!("variant {}", variant.name))?;
                plan.runs[index].push(run);
            }
        }
        Ok(plan)
    }

    /// All that the result of the task at `index` depends on.
    pub(super) fn identity(&self, index: usize) -> Table {
        let task = &self.tasks[index];
        let mut all = task.settings.clone();
        if let Some(after) = task.after {
            let name = format!("the {}'s", self.tasks[after].stage.name());
            all.insert(name, Value::Table(self.identity(after)));
        }
        all
    }

    fn run(&mut self, of: &Of<'_>) -> anyhow::Result<Run> {
        let (pretrain, vit) = self.pretrain(of)?;
        let mut settings = of.data();
        settings.insert("count".into(), Value::Integer(PICTURES));
        let pictures = self.task(of, Stage::Pictures, settings, Some(pretrain));
        let mut measures = vec![];
        for &metric in &of.study.evaluate {
            let mut settings = of.data();
            let field = of.study.label_field.as_ref();
            if let Some(field) = field.filter(|_| metric != Metric::Loss) {
                settings.insert("label_field".into(), field.clone().into());
            }
            if metric == Metric::Finetune {
                let own = merged(Part::Finetune, &of.study.finetune, &of.variant.finetune);
                settings.extend(own.context("finetune")?);
                settings.insert("seed".into(), of.seed());
                check_finetune(&settings, &vit).context("finetune")?;
            }
            let task = self.task(of, Stage::Measure(metric), settings, Some(pretrain));
            measures.push((metric, task));
        }
        Ok(Run {
            pretrain,
            pictures,
            measures,
        })
    }

    /// The pre-training's task, and the encoder that comes of it.
    fn pretrain(&mut self, of: &Of<'_>) -> anyhow::Result<(usize, VitConfig)> {
        let mut settings = of.data();
        let own = merged(Part::Pretrain, &of.study.pretrain, &of.variant.pretrain);
        settings.extend(own.context("pretrain")?);
        settings.insert("seed".into(), of.seed());
        let mut raw: RawPretrain = read(&settings).context("pretrain")?;
        let mut after = None;
        let wanting = raw.target == Some(TargetKind::Tokens) && raw.tokenizer.is_none();
        if let Some(tokenizer) = of.study.tokenizer.as_ref().filter(|_| wanting) {
            let (task, run) = self.tokenizer(of, tokenizer).context("tokenizer")?;
            after = Some(task);
            raw.tokenizer = Some(self.tasks[task].folder.clone());
            raw.tokenizer_config = Some(run.tokenizer());
        }
        raw.output_dir = Some("-".into());
        let config = PretrainConfig::resolve(raw).context("pretrain")?;
        let task = self.task(of, Stage::Pretrain, settings, after);
        Ok((task, config.mae().vit))
    }

    fn tokenizer(&mut self, of: &Of<'_>, own: &Table) -> anyhow::Result<(usize, TokenizerRun)> {
        let mut settings = of.data();
        settings.extend(own.clone());
        let mut raw: RawTokenizer = read(&settings)?;
        raw.output_dir = Some("-".into());
        let run = TokenizerRun::resolve(raw)?;
        Ok((self.task(of, Stage::Tokenizer, settings, None), run))
    }

    /// The task that does this, which is an earlier one where that does the same.
    fn task(&mut self, of: &Of<'_>, stage: Stage, settings: Table, after: Option<usize>) -> usize {
        let same =
            |task: &Task| (task.stage, &task.settings, task.after) == (stage, &settings, after);
        if let Some(index) = self.tasks.iter().position(same) {
            return index;
        }
        let (name, folder) = match stage {
            Stage::Tokenizer => (stage.name().to_owned(), PathBuf::from(stage.name())),
            _ => (
                format!("{}, seed {}: {}", of.variant.name, of.seed, stage.name()),
                Path::new("runs")
                    .join(of.folder)
                    .join(format!("seed-{}", of.seed))
                    .join(stage.name()),
            ),
        };
        self.tasks.push(Task {
            stage,
            name,
            folder,
            settings,
            after,
        });
        self.tasks.len() - 1
    }
}

/// Images of which reconstructions are drawn.
const PICTURES: i64 = 6;

/// What a task is done for.
struct Of<'a> {
    study: &'a Definition,
    variant: &'a Variant,
    seed: u64,
    /// The variant's name as a folder's.
    folder: &'a str,
}

impl Of<'_> {
    fn data(&self) -> Table {
        let mut table = Table::new();
        for (key, specs) in [
            ("data", &self.study.data),
            ("val_data", &self.study.val_data),
        ] {
            if !specs.is_empty() {
                table.insert(key.into(), Value::from(specs.clone()));
            }
        }
        table
    }

    fn seed(&self) -> Value {
        // A study's seeds come from TOML or are checked where flags are read: they fit.
        Value::Integer(self.seed as i64)
    }
}

fn read<T: DeserializeOwned>(settings: &Table) -> anyhow::Result<T> {
    settings
        .clone()
        .try_into()
        .map_err(|error: toml::de::Error| anyhow::anyhow!("{}", error.message().trim()))
}

fn check_finetune(settings: &Table, vit: &VitConfig) -> anyhow::Result<()> {
    let mut raw: RawFinetune = read(settings)?;
    (raw.checkpoint, raw.output_dir) = (Some("-".into()), Some("-".into()));
    FinetuneConfig::resolve(raw, |_, _| Ok(vit.clone()))?;
    Ok(())
}

/// A folder name for each variant, no two alike.
fn folders(variants: &[Variant]) -> Vec<String> {
    let mut taken = HashSet::new();
    let mut folders = vec![];
    for variant in variants {
        let plain: String = variant
            .name
            .chars()
            .map(|c| match c {
                c if c.is_alphanumeric() || ".-_".contains(c) => c,
                _ => '-',
            })
            .collect();
        let plain = plain.trim_matches(['-', '.']);
        let plain = if plain.is_empty() { "variant" } else { plain };
        let mut folder = plain.to_owned();
        for number in 2.. {
            if taken.insert(folder.to_lowercase()) {
                break;
            }
            folder = format!("{plain}-{number}");
        }
        folders.push(folder);
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "title = 'T'\nknob = 'k'\nevaluate = ['finetune', 'knn']\ndata = 'd.tar'\nval_data = 'v.tar'\nseeds = [0, 1]\n\
                        [pretrain]\nmodel = 'mae-micro-patch4'\nepochs = 2\n[finetune]\nepochs = 1\n";

    fn plan(variants: &str) -> anyhow::Result<Plan> {
        Plan::of(&Definition::parse(&format!("{BASE}{variants}"))?)
    }

    fn refused(variants: &str) -> String {
        format!("{:#}", plan(variants).unwrap_err())
    }

    #[test]
    fn variants_that_differ_in_fine_tuning_share_the_rest() {
        let plan = plan("[grid]\nfinetune.freeze_blocks = [0, 4]\n").unwrap();
        let count = |stage| plan.tasks.iter().filter(|task| task.stage == stage).count();
        assert_eq!(count(Stage::Pretrain), 2, "one for each seed");
        assert_eq!(count(Stage::Measure(Metric::Knn)), 2);
        assert_eq!(count(Stage::Measure(Metric::Finetune)), 4);
        let (first, second) = (&plan.runs[0][1], &plan.runs[1][1]);
        assert_eq!(first.pretrain, second.pretrain);
        assert_ne!(first.measures[0].1, second.measures[0].1);
        assert_eq!(first.measures[1].1, second.measures[1].1);
        // Folders tell them apart, and every task waits for its pre-training.
        let folders: HashSet<_> = plan.tasks.iter().map(|task| &task.folder).collect();
        assert_eq!(folders.len(), plan.tasks.len());
        for run in plan.runs.iter().flatten() {
            assert_eq!(plan.tasks[run.pictures].after, Some(run.pretrain));
            assert!(plan.tasks[run.pretrain].after.is_none());
        }
        // All of the first seed comes before the second.
        assert!(plan.runs[1][0].measures[0].1 < plan.runs[0][1].pretrain);
    }

    #[test]
    fn what_a_result_depends_on_reaches_through_the_pre_training() {
        let plan = plan("[grid]\npretrain.mask_ratio = [0.5, 0.75]\n").unwrap();
        let knn = plan.runs[1][0].measures[1].1;
        let identity = plan.identity(knn);
        assert_eq!(identity["data"], Value::from(vec!["d.tar"]));
        assert_eq!(
            identity["the pretrain's"]["mask_ratio"].as_float(),
            Some(0.75)
        );
        assert_eq!(identity["the pretrain's"]["epochs"].as_integer(), Some(2));
        assert_eq!(
            plan.tasks[knn].folder,
            Path::new("runs/mask_ratio-0.75/seed-0/knn")
        );
    }

    #[test]
    fn settings_without_meaning_name_their_variant() {
        let all = refused("[grid]\npretrain.mask_ratio = [0.5, 1.0]\n");
        assert!(
            all.contains("mask_ratio 1.0") && all.contains("0 of 64 patches"),
            "{all}"
        );
        let unknown = refused("[[variant]]\nname = 'x'\npretrain = { mask = 0.5 }\n");
        assert!(
            unknown.contains("variant x: pretrain") && unknown.contains("mask"),
            "{unknown}"
        );
        let blocks = refused("[grid]\nfinetune.freeze_blocks = [5]\n");
        assert!(
            blocks.contains("finetune") && blocks.contains("4 blocks"),
            "{blocks}"
        );
        let tokens = "[[variant]]\nname = 'tokens'\npretrain = { target = 'tokens' }\n";
        assert!(refused(tokens).contains("--tokenizer"));
        let wide = format!("[tokenizer]\npatch_size = 8\n{tokens}");
        assert!(
            refused(&wide).contains("variant tokens: pretrain"),
            "{}",
            refused(&wide)
        );
    }

    #[test]
    fn one_tokenizer_serves_all_seeds() {
        let plan = plan("[tokenizer]\nepochs = 1\n[[variant]]\nname = 'tokens'\npretrain = { target = 'tokens' }\n").unwrap();
        let tokenizers = plan
            .tasks
            .iter()
            .filter(|task| task.stage == Stage::Tokenizer);
        assert_eq!(tokenizers.count(), 1);
        for run in &plan.runs[0] {
            assert_eq!(plan.tasks[run.pretrain].after, Some(0));
        }
    }

    #[test]
    fn names_become_folders() {
        let named = |name: &str| Variant {
            name: name.into(),
            at: None,
            pretrain: Table::new(),
            finetune: Table::new(),
            published: Default::default(),
        };
        let variants = ["75%", "75 %", "a/b: c", "..", "A/B: C"].map(named);
        assert_eq!(
            folders(&variants),
            ["75", "75-2", "a-b--c", "variant", "A-B--C-2"]
        );
    }
}

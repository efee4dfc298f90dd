//! `mae selftest`: a device's operations against those of the CPU.

#[cfg(any(test, feature = "cuda"))]
mod resume;

use clap::Args;

use crate::Outcome;

/// Check a GPU: every operation it has against the CPU's, over odd shapes
///
/// Prints a table and fails if any result is further off than rounding explains. Run it first on a new machine.
#[derive(Debug, Args)]
pub(crate) struct SelftestArgs {
    /// The GPU to check, `cuda` or `cuda:N`
    #[arg(long, default_value = "cuda", value_parser = parse_gpu, value_name = "DEVICE")]
    device: usize,

    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

fn parse_gpu(text: &str) -> Result<usize, String> {
    let number = match text.split_once(':') {
        None if text == "cuda" => Some(0),
        Some(("cuda", number)) => number.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| {
        "devices to check are `cuda` or `cuda:N`; the CPU is what they are checked against".into()
    })
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn run(_: &SelftestArgs) -> anyhow::Result<Outcome> {
    Err(crate::Usage("this mae was built without CUDA; build with `cargo build --release --features cuda` (docs/gpu.md)".into()).into())
}

#[cfg(feature = "cuda")]
pub(crate) fn run(args: &SelftestArgs) -> anyhow::Result<Outcome> {
    use mae_model::selftest::{Check, Place, run};
    use mae_trainer::config::DeviceKind;

    let device = mae_model::cuda::device(args.device)?;
    tracing::info!("{}", mae_model::cuda::describe(&device)?);
    let mut checks = run(&Place::Device(device))?;
    let exact = resume::is_exact(DeviceKind::Cuda(args.device))?;
    checks.push(Check::of(
        "a run stopped and resumed, the same bits as one that was not",
        exact,
    ));
    let failed = checks.iter().filter(|check| !check.passed()).count();
    if args.json {
        let checks: Vec<_> = checks
            .iter()
            .map(|check| {
                serde_json::json!({
                    "name": check.name,
                    "difference": check.difference,
                    "tolerance": check.tolerance,
                    "passed": check.passed(),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&checks)?);
    } else {
        let head = ["check", "difference", "allowed", ""].map(String::from);
        let rows: Vec<Vec<String>> = checks
            .iter()
            .map(|check| {
                let verdict = if check.passed() { "ok" } else { "FAILED" };
                let number = |x: f32| format!("{x:.1e}");
                vec![
                    check.name.clone(),
                    number(check.difference),
                    number(check.tolerance),
                    verdict.into(),
                ]
            })
            .collect();
        print!("{}", crate::table::text(&head, &rows));
    }
    if failed > 0 {
        anyhow::bail!(
            "{failed} of {} checks failed: do not trust results of this device",
            checks.len()
        );
    }
    tracing::info!("all {} checks passed", checks.len());
    Ok(Outcome::Done)
}

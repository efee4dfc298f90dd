//! Position embeddings, counts of kept patches and initial weights against `formulas.json`.

use candle_core::Device;
use mae_model::{Mae, MaeConfig, pos_embed};
use serde_json::Value;

use crate::golden::{float, folder, mae_config, number};

fn formulas() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("formulas.json")).unwrap()).unwrap()
}

#[test]
fn position_embeddings_have_their_values() {
    let facts = &formulas()["position_embeddings"];
    let table = |of: &Value| {
        pos_embed::sin_cos(
            number(&of["dim"]),
            (number(&of["rows"]), number(&of["columns"])),
        )
    };
    let check = |actual: f32, expected: f64| {
        assert!(
            (f64::from(actual) - expected).abs() < 1e-7,
            "{actual} {expected}"
        )
    };
    for grid in facts["grids"].as_array().unwrap() {
        let (actual, expected) = (table(grid), grid["values"].as_array().unwrap());
        assert_eq!(actual.len(), expected.len());
        actual
            .iter()
            .zip(expected)
            .for_each(|(&a, e)| check(a, float(e)));
    }
    let base = &facts["base"];
    let actual = table(base);
    for probe in base["probes"].as_array().unwrap() {
        let at = number(&probe["token"]) * number(&base["dim"]) + number(&probe["channel"]);
        check(actual[at], float(&probe["value"]));
    }
}

#[test]
fn kept_patches_are_counted_as_the_reference_code_counts() {
    let cases = formulas()["keep_counts"].clone();
    for case in cases.as_array().unwrap() {
        let patches = number(&case["patches"]);
        let config = MaeConfig::named("mae-micro-patch4", (4, 4 * patches), 3).unwrap();
        assert_eq!(config.patches(), patches);
        assert_eq!(
            config.keep(float(&case["mask_ratio"])),
            number(&case["keep"]),
            "{case}"
        );
    }
}

#[test]
fn initial_weights_are_drawn_as_the_reference_code_draws() {
    let facts = formulas()["initial_weights"].clone();
    let config = mae_config(&facts["model"]);
    let drawn: Vec<_> = (0..16)
        .map(|seed| {
            Mae::new(config.clone(), &Device::Cpu, seed)
                .unwrap()
                .state_dict()
                .unwrap()
        })
        .collect();
    for (name, expected) in facts["parameters"].as_object().unwrap() {
        let values: Vec<f64> = drawn
            .iter()
            .flat_map(|state| state[name].data.iter().map(|&x| f64::from(x)))
            .collect();
        let count = values.len() as f64;
        let std = (values.iter().map(|x| x * x).sum::<f64>() / count).sqrt();
        let largest = values.iter().fold(0f64, |top, x| top.max(x.abs()));
        let kind = expected["kind"].as_str().unwrap();
        if kind == "constant" {
            assert!(
                values.iter().all(|&x| x == float(&expected["value"])),
                "{name}"
            );
            continue;
        }
        // Five standard errors of a normal distribution's deviation; a uniform one's is smaller.
        let wanted = if kind == "normal" {
            float(&expected["std"])
        } else {
            float(&expected["bound"]) / 3f64.sqrt()
        };
        assert!(
            (std / wanted - 1.0).abs() < 5.0 / (2.0 * count).sqrt(),
            "{name}: {std} instead of {wanted}"
        );
        if kind == "uniform" {
            let bound = float(&expected["bound"]);
            assert!(
                largest <= bound * (1.0 + 1e-6) && largest > 0.95 * bound,
                "{name}: {largest} under {bound}"
            );
        }
        assert_ne!(
            drawn[0][name].data, drawn[1][name].data,
            "{name} ignores the seed"
        );
    }
}

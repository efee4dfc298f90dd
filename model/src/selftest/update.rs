//! The loss, the norm and AdamW; and that numbers that are none leave the weights alone.

use candle_core::{DType, Tensor};

use super::{Session, numbers, rounding};
use crate::ops::adamw::{AdamWStep, Group, Groups, adamw_step};
use crate::record::Record;
use crate::{Accumulate, Result};

/// Numbers of the flat tensors: more than one pass of all threads would take in the last.
const LENGTHS: [usize; 3] = [64, 1024, 64 * 1001];

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    for len in LENGTHS {
        for clip in [None, Some(0.5)] {
            check(s, len, clip)?;
        }
    }
    Ok(())
}

fn check(s: &mut Session<'_>, len: usize, clip: Option<f64>) -> Result<()> {
    let name = format!("update of {len}, clipped to {clip:?}");
    let group = |range, weight_decay| Group {
        range,
        weight_decay,
        lr_scale: 1.0,
    };
    let groups = || {
        let cut = len / 128 * 64;
        Groups::new(vec![group(0..cut, 0.05), group(cut..len, 0.0)], len)
    };
    let (groups, groups2) = (groups(), groups());
    let flat = |seed| numbers(&[len], seed);
    let (p, g, m, v) = (flat(1)?, flat(2)?, flat(3)?, flat(4)?.sqr()?);
    let (p2, g2, m2, v2) = (s.put(&p)?, s.put(&g)?, s.put(&m)?, s.put(&v)?);
    let low2 = s.output(len, DType::BF16)?;
    let (errors, bad) = (
        numbers(&[3, 37], 5)?,
        numbers(&[3, 37], 6)?.affine(f64::NAN, 0.0)?,
    );
    let (errors2, bad2) = (s.put(&errors)?, s.put(&bad)?);
    let mut record = Record::new(p.device(), clip)?;
    let mut record2 = Record::new(p2.device(), clip)?;
    let step = |step| AdamWStep {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        step,
    };
    for number in 1..=3 {
        // The third update's second batch has no loss.
        let second = if number == 3 {
            (&bad, &bad2)
        } else {
            (&errors, &errors2)
        };
        record.loss(&errors, 0.5, Accumulate::Replace)?;
        record.loss(second.0, 0.5, Accumulate::Add)?;
        record.settle(&g)?;
        adamw_step((&p, None), &g, (&m, &v), &groups, &record, &step(number))?;
        record.ask()?;
        s.on(|| {
            record2.loss(&errors2, 0.5, Accumulate::Replace)?;
            record2.loss(second.1, 0.5, Accumulate::Add)?;
            record2.settle(&g2)?;
            let (weights, moments) = ((&p2, Some(&low2)), (&m2, &v2));
            adamw_step(weights, &g2, moments, &groups2, &record2, &step(number))?;
            record2.ask()
        })?;
        let (one, two) = (record.take(true)?, record2.take(true)?);
        let (Some(one), Some(two)) = (one, two) else {
            continue;
        };
        let name = format!("{name}, {number}");
        s.truth(format!("{name}, halted"), one.halted == two.halted)?;
        s.truth(
            format!("{name}, halted at the third"),
            two.halted == (number == 3),
        )?;
        s.truth(
            format!("{name}, for the second batch"),
            two.bad_batch == one.bad_batch && two.bad_batch == (number == 3).then_some(1),
        )?;
        if number < 3 {
            let scalar = |x: f32| Tensor::new(&[x], p.device());
            s.compare(
                format!("{name}, loss"),
                &scalar(two.loss)?,
                &scalar(one.loss)?,
                1e-5,
            )?;
        }
        if let (Some(a), Some(b)) = (one.grad_norm, two.grad_norm) {
            let off = (a - b).abs() <= 1e-5 * a;
            s.truth(format!("{name}, norm"), off)?;
        }
        for (what, got, wanted) in [
            ("weights", &p2, &p),
            ("first moment", &m2, &m),
            ("second moment", &v2, &v),
        ] {
            s.compare(format!("{name}, {what}"), got, wanted, 1e-5)?;
        }
        s.compare(
            format!("{name}, weights rounded"),
            &low2,
            &p,
            rounding(DType::BF16),
        )?;
    }
    Ok(())
}

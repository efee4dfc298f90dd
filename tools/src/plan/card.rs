//! What GPUs have, as their makers state it.

use std::str::FromStr;

use mae_model::Precision;

/// A kind of GPU. Rates are those of dense products that sum in float32, without sparsity, from NVIDIA's data sheets (H100 and H200:
/// SXM; A100: SXM; L40S) and, for the RTX 4090, the Ada architecture's white paper. No run of this program has measured them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Card {
    pub(super) name: &'static str,
    /// 10¹² operations a second in bfloat16, TF32 and float32.
    rates: [f64; 3],
    /// In bytes: the data sheet's GB as 10⁹, which leaves what a driver shows beyond them to CUDA's own context.
    pub(super) memory: u64,
    /// To the other GPUs of its machine, in one direction, in GB/s: NVLink of the fourth or third generation, or PCIe 4.0 × 16.
    pub(super) link: f64,
}

const CARDS: [Card; 6] = [
    card("H200", [989.4, 494.7, 66.9], 141, 450.0),
    card("H100", [989.4, 494.7, 66.9], 80, 450.0),
    card("A100-80", [312.0, 156.0, 19.5], 80, 300.0),
    card("A100-40", [312.0, 156.0, 19.5], 40, 300.0),
    card("L40S", [362.0, 183.0, 91.6], 48, 32.0),
    card("RTX-4090", [165.2, 82.6, 82.6], 24, 32.0),
];

const fn card(name: &'static str, rates: [f64; 3], gigabytes: u64, link: f64) -> Card {
    Card {
        name,
        rates,
        memory: gigabytes * 1_000_000_000,
        link,
    }
}

impl Card {
    /// Operations a second of products.
    pub(super) fn rate(&self, precision: Precision) -> f64 {
        let [bf16, tf32, f32] = self.rates;
        1e12 * match precision {
            Precision::Bf16 => bf16,
            Precision::Tf32 => tf32,
            Precision::F32 => f32,
        }
    }
}

impl FromStr for Card {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |name: &str| name.replace([' ', '_', '-'], "").to_lowercase();
        CARDS
            .into_iter()
            .find(|card| plain(card.name) == plain(text))
            .ok_or_else(|| {
                let names = CARDS.map(|card| card.name).join(", ");
                format!(
                    "`{text}` is not among {names}; for another card give --flops, --memory and --all-reduce-bandwidth"
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_found_by_name() {
        let card: Card = "rtx 4090".parse().unwrap();
        assert_eq!((card.name, card.memory), ("RTX-4090", 24_000_000_000));
        for card in CARDS {
            assert_eq!(card.name.parse(), Ok(card));
            assert!(card.rate(Precision::Bf16) > card.rate(Precision::F32));
        }
        assert!("A100".parse::<Card>().unwrap_err().contains("A100-80"));
    }
}

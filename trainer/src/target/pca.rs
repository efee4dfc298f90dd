//! Principal components of patches, fitted in one pass over images.
//!
//! Mean and covariance are summed in float64 over the patches in the loader's order, strips of the matrix being dealt to the threads:
//! each number is added up by one thread in one order, so that the result does not depend on how many there are.

use mae_loader::{Cursor, Loader};
use mae_model::ops::masked_loss::Target;
use mae_model::{PcaBasis, VitConfig};
use nalgebra::{DMatrix, DVectorView, SymmetricEigen};
use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Error, Result};

/// Patches that are worked into the covariance at a time.
const BLOCK: usize = 1024;
/// Columns of the covariance that are one piece of work.
const STRIP: usize = 64;

/// A basis, and how much of the data is in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PcaFit {
    /// What the model computes with.
    #[serde(skip)]
    pub basis: PcaBasis,
    /// Images that it was fitted on.
    pub images: u64,
    /// Their patches.
    pub patches: u64,
    /// The variance along each principal component, all `P·P·C` of them, the largest first; with n − 1, as scikit-learn has it.
    pub eigenvalues: Vec<f64>,
    /// The share of the whole variance that each component kept explains.
    pub explained_variance_ratio: Vec<f64>,
}

impl PcaFit {
    /// The share of the variance that the components kept explain together.
    pub fn explained(&self) -> f64 {
        self.explained_variance_ratio.iter().sum()
    }
}

/// Sums over patches.
#[derive(Clone, Debug)]
struct Moments {
    len: usize,
    count: u64,
    sum: Vec<f64>,
    /// `Σ x xᵀ`, row by row; below the diagonal's strips nothing.
    products: Vec<f64>,
    block: Vec<f64>,
}

impl Moments {
    /// Of patches of `len` numbers, none so far.
    fn new(len: usize) -> Self {
        Self {
            len,
            count: 0,
            sum: vec![0.0; len],
            products: vec![0.0; len * len],
            block: Vec::with_capacity(BLOCK * len),
        }
    }

    /// Adds a patch `[len]`.
    fn add(&mut self, patch: &[f32]) {
        self.block.extend(patch.iter().map(|&x| f64::from(x)));
        if self.block.len() >= BLOCK * self.len {
            self.work_in();
        }
    }

    /// Adds what is in the block.
    fn work_in(&mut self) {
        let len = self.len;
        let rows = self.block.len() / len;
        if rows == 0 {
            return;
        }
        self.count += rows as u64;
        for row in self.block.chunks_exact(len) {
            self.sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        // Column-major [len, rows]: a column a patch.
        let x = DMatrix::from_column_slice(len, rows, &self.block);
        let strips = self.products.par_chunks_mut(STRIP * len).enumerate();
        strips.for_each(|(strip, products)| {
            let (first, width) = (strip * STRIP, products.len() / len);
            // Row j of the products, from the strip's first column on, is column j of its transposed.
            let left = x.rows(first, len - first).clone_owned();
            let right = x.rows(first, width).transpose();
            let part = left * right;
            for (row, column) in products.chunks_exact_mut(len).zip(part.column_iter()) {
                let row = row[first..].iter_mut();
                row.zip(column.iter()).for_each(|(sum, x)| *sum += x);
            }
        });
        self.block.clear();
    }

    /// The first `components` principal components.
    ///
    /// Each is turned so that its largest number without regard to the sign, the first of several, is positive (scikit-learn's rule).
    /// Components of equal variance may be any basis of their space.
    ///
    /// # Errors
    /// If there were fewer than two patches, or the decomposition does not end.
    fn fit(mut self, components: usize) -> Result<(PcaBasis, Vec<f64>)> {
        self.work_in();
        let (len, n) = (self.len, self.count as f64);
        if self.count < 2 {
            return Err(Error::Config(format!(
                "principal components need two patches, and the data has {}",
                self.count
            )));
        }
        let mean: Vec<f64> = self.sum.iter().map(|sum| sum / n).collect();
        let covariance = DMatrix::from_fn(len, len, |i, j| {
            let (low, high) = (i.min(j), i.max(j));
            (self.products[low * len + high] - n * mean[low] * mean[high]) / (n - 1.0)
        });
        let eigen = SymmetricEigen::try_new(covariance, f64::EPSILON, 0).ok_or_else(|| {
            Error::Config("the patches' covariance has no eigenvectors; is the data finite?".into())
        })?;
        let mut order: Vec<usize> = (0..len).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let basis = order[..components.min(len)].iter();
        let basis = basis.flat_map(|&at| upright(eigen.eigenvectors.column(at)));
        let basis = PcaBasis {
            basis: basis.collect(),
            mean: mean.iter().map(|&x| x as f32).collect(),
        };
        // What is below zero is rounding.
        let variances = order.iter().map(|&at| eigen.eigenvalues[at].max(0.0));
        Ok((basis, variances.collect()))
    }
}

/// A component with its largest number positive.
fn upright(component: DVectorView<'_, f64>) -> Vec<f32> {
    let largest = component
        .iter()
        .fold(0.0f64, |top, &x| if x.abs() > top.abs() { x } else { top });
    let sign = if largest < 0.0 { -1.0 } else { 1.0 };
    component.iter().map(|x| (sign * x) as f32).collect()
}

/// Fits `components` principal components to all patches of the images of `loader`, one epoch, normalised as the model's pixels are.
/// `progress` hears of the images gone through.
///
/// # Errors
/// If the data cannot be read.
pub(crate) fn fit(
    loader: &Loader,
    vit: &VitConfig,
    components: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<PcaFit> {
    let len = vit.patch_len();
    let (mut moments, mut images) = (Moments::new(len), 0);
    let (target, mut patch) = (Target::of_pixels(vit), vec![0.0; len]);
    for batch in loader.batches(Cursor::default()) {
        let batch = batch?;
        for pixels in batch
            .pixels()
            .chunks_exact(batch.pixels().len() / batch.len())
        {
            for id in 0..vit.patches() {
                target.patch(pixels, id, &mut patch);
                moments.add(&patch);
            }
        }
        images += batch.len() as u64;
        progress(images);
    }
    let patches = images * vit.patches() as u64;
    let (basis, eigenvalues) = moments.fit(components)?;
    let whole: f64 = eigenvalues.iter().sum();
    let share = |x: &f64| if whole > 0.0 { x / whole } else { 0.0 };
    Ok(PcaFit {
        explained_variance_ratio: eigenvalues[..components].iter().map(share).collect(),
        basis,
        images,
        patches,
        eigenvalues,
    })
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};

    use super::*;
    use crate::golden::Golden;
    use mae_model::MaeConfig;

    fn uniform(rng: &mut ChaCha8Rng) -> f32 {
        rng.next_u32() as f32 / u32::MAX as f32 - 0.5
    }

    fn moments(patches: usize, len: usize) -> Moments {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut moments = Moments::new(len);
        for _ in 0..patches {
            let common = uniform(&mut rng);
            let patch: Vec<f32> = (0..len)
                .map(|i| common * (1.0 + i as f32) + uniform(&mut rng) / (1.0 + i as f32))
                .collect();
            moments.add(&patch);
        }
        moments
    }

    #[test]
    fn the_axes_of_an_ellipse() {
        let mut moments = Moments::new(2);
        // Along (3, 4) / 5 with deviation 2, across with 1, about (10, -1).
        for (along, across) in [(2.0, 1.0), (-2.0, 1.0), (2.0, -1.0), (-2.0, -1.0)] {
            let x = 10.0 + (3.0 * along - 4.0 * across) / 5.0;
            let y = -1.0 + (4.0 * along + 3.0 * across) / 5.0;
            moments.add(&[x, y]);
        }
        let (basis, variances) = moments.fit(2).unwrap();
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&basis.mean, &[10.0, -1.0]));
        assert!(close(&basis.basis, &[0.6, 0.8, 0.8, -0.6]), "{basis:?}");
        // With n − 1.
        assert!(
            (variances[0] - 16.0 / 3.0).abs() < 1e-6 && (variances[1] - 4.0 / 3.0).abs() < 1e-6
        );
    }

    #[test]
    fn rows_are_orthonormal_and_variances_fall() {
        let len = 150;
        let (basis, variances) = moments(3000, len).fit(len).unwrap();
        assert!(variances.windows(2).all(|pair| pair[0] >= pair[1]));
        for (i, a) in basis.basis.chunks_exact(len).enumerate() {
            let largest = a
                .iter()
                .fold(0f32, |top, &x| if x.abs() > top.abs() { x } else { top });
            assert!(largest > 0.0);
            for (j, b) in basis.basis.chunks_exact(len).enumerate() {
                let product: f64 = a
                    .iter()
                    .zip(b)
                    .map(|(&a, &b)| f64::from(a) * f64::from(b))
                    .sum();
                let wanted = if i == j { 1.0 } else { 0.0 };
                assert!((product - wanted).abs() < 1e-5, "{i} {j} {product}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build()
                .unwrap()
                .install(|| moments(2500, 130).fit(20).unwrap())
        };
        assert!(with(1) == with(3));
    }

    /// scikit-learn's numbers; `tests/reference/pca_sklearn.py` says what the file holds. Its signs are those of our rule.
    #[test]
    fn scikit_learn_agrees() {
        let golden = Golden::open("pca");
        let mut vit = MaeConfig::named("mae-micro-patch4", (12, 12), 3)
            .unwrap()
            .vit;
        (vit.mean, vit.std) = (golden.f32s("channel.mean"), golden.f32s("channel.std"));
        let pixels = golden.u32s("pixels");
        let pixels: Vec<u8> = pixels.into_iter().map(|x| x as u8).collect();
        let (target, len, kept) = (Target::of_pixels(&vit), 48, 8);
        let mut patches: Vec<Vec<f32>> = vec![];
        for image in pixels.chunks_exact(12 * 12 * 3) {
            for id in 0..vit.patches() {
                let mut patch = vec![0.0; len];
                target.patch(image, id, &mut patch);
                patches.push(patch);
            }
        }
        let mut moments = Moments::new(len);
        patches.iter().for_each(|patch| moments.add(patch));
        let (basis, variances) = moments.fit(kept).unwrap();

        let (components, whole) = (golden.f32s("components"), variances.iter().sum::<f64>());
        let close = |what: &str, got: f64, wanted: f32, scale: f64| {
            let off = (got - f64::from(wanted)).abs() / scale;
            assert!(off < 1e-5, "{what}: {got} {wanted}");
        };
        for (got, wanted) in basis.mean.iter().zip(golden.f32s("mean")) {
            close("mean", f64::from(*got), wanted, 1.0);
        }
        let shares = golden
            .f32s("variance")
            .into_iter()
            .zip(golden.f32s("ratio"));
        for (got, (variance, ratio)) in variances.iter().zip(shares) {
            close("variance", *got, variance, variances[0]);
            close("ratio", got / whole, ratio, 1.0);
        }
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
            products.sum()
        };
        for (got, wanted) in basis.basis.iter().zip(&components) {
            close("component", f64::from(*got), *wanted, 0.1);
        }
        let coefficients = golden.f32s("coefficients");
        for (patch, wanted) in patches.iter().zip(coefficients.chunks_exact(kept)) {
            let centred: Vec<f32> = patch.iter().zip(&basis.mean).map(|(x, m)| x - m).collect();
            for (row, &wanted) in basis.basis.chunks_exact(len).zip(wanted) {
                close("coefficient", dot(row, &centred), wanted, 10.0);
            }
        }
    }

    #[test]
    fn one_patch_is_too_few() {
        let mut moments = Moments::new(3);
        moments.add(&[1.0, 2.0, 3.0]);
        assert!(
            moments
                .fit(1)
                .unwrap_err()
                .to_string()
                .contains("two patches")
        );
    }
}

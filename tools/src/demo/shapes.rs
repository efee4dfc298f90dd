//! What the demo's pictures are classified by: a shape and the texture that fills it. Pure geometry: point in, answer out.
//! Not here: colours, position, scale, rotation, light and clutter, which are drawn without regard to the class (see `scene`).

/// An outline around the origin, about one unit in radius; all are scaled to about the same area, so that size tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Disc,
    Triangle,
    Cross,
    Ring,
}

/// How an object's two colours alternate inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Texture {
    Striped,
    Checked,
    Dotted,
}

/// Every shape, in the order of the class numbers.
pub(super) const SHAPES: [Shape; 4] = [Shape::Disc, Shape::Triangle, Shape::Cross, Shape::Ring];
/// Every texture, in the order of the class numbers.
pub(super) const TEXTURES: [Texture; 3] = [Texture::Striped, Texture::Checked, Texture::Dotted];
/// How many classes there are: every shape with every texture.
pub(super) const CLASSES: u32 = (SHAPES.len() * TEXTURES.len()) as u32;

/// The shape and the texture of a class.
pub(super) fn of_class(class: u32) -> (Shape, Texture) {
    let class = (class % CLASSES) as usize;
    (
        SHAPES[class / TEXTURES.len()],
        TEXTURES[class % TEXTURES.len()],
    )
}

/// The classes' names, by number: "striped-disc", …
pub(super) fn class_names() -> Vec<String> {
    (0..CLASSES)
        .map(|class| {
            let (shape, texture) = of_class(class);
            format!("{texture:?}-{shape:?}").to_lowercase()
        })
        .collect()
}

impl Shape {
    /// Whether the point lies inside the shape.
    pub(super) fn contains(self, x: f32, y: f32) -> bool {
        let r2 = x * x + y * y;
        match self {
            Shape::Disc => r2 < 0.92 * 0.92,
            // Equilateral: within the inradius of each of three sides.
            Shape::Triangle => {
                let (s, c) = (0.75f32.sqrt(), 0.5);
                y < 0.66 && -s * x - c * y < 0.66 && s * x - c * y < 0.66
            }
            Shape::Cross => {
                let (x, y) = (x.abs(), y.abs());
                x.max(y) < 1.08 && x.min(y) < 0.38
            }
            Shape::Ring => r2 < 1.12 * 1.12 && r2 > 0.56 * 0.56,
        }
    }
}

impl Texture {
    /// Whether the point, measured in periods of the texture, has the second colour; `share` in (0, 1) says about how much of the
    /// area does.
    pub(super) fn is_second(self, u: f32, v: f32, share: f32) -> bool {
        let (fu, fv) = (u - u.floor(), v - v.floor());
        match self {
            Texture::Striped => fu < share,
            // Squares of unequal sides (share < 0.5) still tile as a checker-board.
            Texture::Checked => (fu < share) == (fv < share),
            Texture::Dotted => {
                let (du, dv) = (fu - 0.5, fv - 0.5);
                du * du + dv * dv < share * 0.25
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(shape: Shape) -> f32 {
        let n = 400;
        let step = 3.0 / n as f32;
        let inside = (0..n * n)
            .filter(|i| shape.contains((i % n) as f32 * step - 1.5, (i / n) as f32 * step - 1.5))
            .count();
        inside as f32 * step * step
    }

    #[test]
    fn every_class_has_a_name_of_its_own() {
        let mut names = class_names();
        assert_eq!(names.len(), CLASSES as usize);
        assert_eq!(names[0], "striped-disc");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), CLASSES as usize);
    }

    #[test]
    fn areas_are_alike() {
        for shape in SHAPES {
            let area = area(shape);
            assert!((2.2..3.1).contains(&area), "{shape:?} covers {area}");
        }
    }

    #[test]
    fn shapes_and_textures_differ_where_they_should() {
        assert!(Shape::Disc.contains(0.0, 0.0) && !Shape::Ring.contains(0.0, 0.0));
        assert!(Shape::Cross.contains(1.0, 0.0) && !Shape::Cross.contains(0.7, 0.7));
        assert!(Shape::Triangle.contains(0.0, -1.2) && !Shape::Triangle.contains(0.0, 0.8));
        // Stripes are the same along v; checks turn over.
        assert_eq!(
            Texture::Striped.is_second(0.1, 0.2, 0.5),
            Texture::Striped.is_second(0.1, 0.7, 0.5)
        );
        assert_ne!(
            Texture::Checked.is_second(0.1, 0.2, 0.5),
            Texture::Checked.is_second(0.1, 0.7, 0.5)
        );
        assert!(
            Texture::Dotted.is_second(3.5, -0.5, 0.5) && !Texture::Dotted.is_second(0.0, 0.0, 0.5)
        );
    }
}

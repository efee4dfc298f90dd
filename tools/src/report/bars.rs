//! A bar chart with intervals as inline SVG, in the page's colours.

use std::fmt::Write;

use super::html::escape;
use super::svg::Axis;

/// Width of a chart in its own units, the part of it for names and the part for figures; the page scales it.
const WIDTH: f64 = 860.0;
const NAMES: f64 = 230.0;
const FIGURES: f64 = 170.0;
/// Height of a bar with the space around it, of the bar alone, and of the axis below all.
const ROW: f64 = 34.0;
const BAR: f64 = 18.0;
const AXIS: f64 = 46.0;
/// Longest name that fits, in characters.
const LONGEST: usize = 28;

/// Horizontal bars from zero, one below the other.
pub(crate) struct Bars<'a> {
    /// Under the axis.
    pub(crate) label: &'a str,
    /// From top to bottom; those whose value is not finite have no bar.
    pub(crate) bars: Vec<Bar>,
}

/// A bar.
pub(crate) struct Bar {
    /// On its left; the end of it where it is long.
    pub(crate) name: String,
    /// Its length.
    pub(crate) value: f64,
    /// What the value lies in.
    pub(crate) interval: (f64, f64),
    /// On its right: the value as people read it.
    pub(crate) text: String,
}

impl Bars<'_> {
    /// The chart, or nothing where there is not a bar to draw.
    pub(crate) fn draw(&self) -> Option<String> {
        let finite = self.bars.iter().filter(|bar| bar.value.is_finite());
        let ends: Vec<f64> = finite
            .flat_map(|bar| [bar.value, bar.interval.0, bar.interval.1])
            .filter(|end| end.is_finite())
            .collect();
        if ends.is_empty() {
            return None;
        }
        let axis = Axis::over(ends.into_iter().chain([0.0]))?;
        let x_of = |value: f64| NAMES + axis.share(value) * (WIDTH - NAMES - FIGURES);
        let bottom = self.bars.len() as f64 * ROW;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\" font-family=\"system-ui,sans-serif\" \
             font-size=\"13\" fill=\"var(--soft)\">",
            bottom + AXIS,
            escape(self.label)
        );
        for tick in axis.ticks() {
            let x = x_of(tick);
            let _ = write!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom:.1}\" stroke=\"var(--rule)\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                axis.text(tick)
            );
        }
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            (NAMES + WIDTH - FIGURES) / 2.0,
            bottom + 38.0,
            escape(self.label)
        );
        for (row, bar) in self.bars.iter().enumerate() {
            let top = row as f64 * ROW + (ROW - BAR) / 2.0;
            let (middle, base) = (top + BAR / 2.0, top + BAR / 2.0 + 4.5);
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\" fill=\"var(--ink)\">{}</text>\
                 <text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\" fill=\"var(--ink)\">{}</text>",
                NAMES - 10.0,
                escape(&shortened(&bar.name)),
                WIDTH - 4.0,
                escape(&bar.text)
            );
            if !bar.value.is_finite() {
                continue;
            }
            let (from, to) = (x_of(bar.value.min(0.0)), x_of(bar.value.max(0.0)));
            let _ = write!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"var(--a)\" opacity=\"0.75\"/>",
                to - from
            );
            let (low, high) = bar.interval;
            if low.is_finite() && high.is_finite() {
                let (low, high) = (x_of(low), x_of(high));
                let (above, below) = (middle - 5.0, middle + 5.0);
                let _ = write!(
                    svg,
                    "<path d=\"M{low:.1} {above:.1}V{below:.1}M{low:.1} {middle:.1}H{high:.1}M{high:.1} {above:.1}V{below:.1}\" \
                     fill=\"none\" stroke=\"var(--ink)\" stroke-width=\"1.5\"/>"
                );
            }
        }
        svg.push_str("</svg>");
        Some(svg)
    }
}

/// The end of a long name, which tells paths apart better than their beginning.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= LONGEST {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length - LONGEST + 1).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, value: f64, interval: (f64, f64)) -> Bar {
        Bar {
            name: name.to_owned(),
            value,
            interval,
            text: format!("{value}%"),
        }
    }

    /// The attribute `name` of every element `tag`.
    fn attributes(svg: &str, tag: &str, name: &str) -> Vec<f64> {
        svg.split(&format!("<{tag} "))
            .skip(1)
            .filter_map(|element| element.split(&format!("{name}=\"")).nth(1))
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn lengths_are_in_proportion_and_intervals_around_their_end() {
        let bars = Bars {
            label: "top-1, %",
            bars: vec![
                bar("a <b>", 20.0, (15.0, 25.0)),
                bar("c", 40.0, (35.0, 45.0)),
                bar("lost", f64::NAN, (0.0, 0.0)),
            ],
        };
        let svg = bars.draw().unwrap();
        let widths = attributes(&svg, "rect", "width");
        assert_eq!(widths.len(), 2, "no bar without a value");
        assert!((widths[1] - 2.0 * widths[0]).abs() < 0.2, "{widths:?}");
        let ends: Vec<Vec<f64>> = svg
            .split("<path d=\"M")
            .skip(1)
            .map(|path| {
                let path = path.split('"').next().unwrap();
                let low = path.split(' ').next().unwrap();
                let high = path.split('H').nth(1).unwrap().split('M').next().unwrap();
                [low, high].map(|x| x.parse().unwrap()).to_vec()
            })
            .collect();
        for (width, ends) in widths.iter().zip(ends) {
            assert!(ends[0] < NAMES + width && NAMES + width < ends[1]);
            assert!(ends[1] <= WIDTH - FIGURES);
        }
        assert!(svg.contains("a &lt;b&gt;") && svg.contains("NaN%"));
    }

    #[test]
    fn without_a_value_there_is_no_chart() {
        let bars = Bars {
            label: "x",
            bars: vec![bar("a", f64::NAN, (f64::NAN, f64::NAN))],
        };
        assert!(bars.draw().is_none());
        assert!(shortened(&"long".repeat(20)).starts_with('…'));
        assert_eq!(shortened(&"long".repeat(20)).chars().count(), LONGEST);
    }
}

//! A line chart as inline SVG, in the page's colours.

use std::fmt::Write;

use super::html::escape;

/// Width and height of a chart in its own units; the page scales it.
const SIZE: (f64, f64) = (860.0, 320.0);
/// Left, top, right, bottom: room for labels.
const MARGIN: (f64, f64, f64, f64) = (64.0, 16.0, 16.0, 48.0);
/// The page's colours of the series, in turn.
const COLOURS: [&str; 2] = ["var(--a)", "var(--b)"];

/// A chart of lines over one horizontal axis.
pub(crate) struct Chart<'a> {
    /// Under the horizontal axis.
    pub(crate) x_label: &'a str,
    /// Beside the vertical axis.
    pub(crate) y_label: &'a str,
    /// One line each; those without a finite point are left out.
    pub(crate) series: Vec<Series<'a>>,
}

/// A line.
pub(crate) struct Series<'a> {
    /// What the legend calls it.
    pub(crate) name: &'a str,
    /// (x, y), in order of x.
    pub(crate) points: Vec<(f64, f64)>,
    /// The lowest and the highest y of each point, drawn where both are finite; none, or one for each point.
    pub(crate) ranges: Vec<(f64, f64)>,
    /// Whether each point is marked, for few points.
    pub(crate) dots: bool,
}

impl Chart<'_> {
    /// The chart, or nothing where there is not a point to draw.
    pub(crate) fn draw(&self) -> Option<String> {
        let points = || {
            let all = self.series.iter().flat_map(|series| series.points.iter());
            all.filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        let xs = Axis::over(points().map(|p| p.0))?;
        let ranges = self.series.iter().flat_map(|series| &series.ranges);
        let ends = ranges.flat_map(|&(low, high)| [low, high]);
        let ends = ends.filter(|end| end.is_finite());
        let ys = Axis::over(points().map(|p| p.1).chain(ends))?;
        let (left, top, right, bottom) = MARGIN;
        let (width, height) = SIZE;
        let x_of = |x: f64| left + xs.share(x) * (width - left - right);
        let y_of = |y: f64| height - bottom - ys.share(y) * (height - top - bottom);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{} over {}\" \
             font-family=\"system-ui,sans-serif\" font-size=\"12\" fill=\"var(--soft)\">",
            escape(self.y_label),
            escape(self.x_label)
        );
        for tick in ys.ticks() {
            let y = y_of(tick);
            let _ = write!(
                svg,
                "<line x1=\"{left}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"var(--rule)\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                width - right,
                left - 8.0,
                y + 4.0,
                ys.text(tick)
            );
        }
        for tick in xs.ticks() {
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x_of(tick),
                height - bottom + 18.0,
                xs.text(tick)
            );
        }
        let (middle_x, middle_y) = ((left + width - right) / 2.0, (top + height - bottom) / 2.0);
        let _ = write!(
            svg,
            "<text x=\"{middle_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(14 {middle_y:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            height - 10.0,
            escape(self.x_label),
            escape(self.y_label)
        );
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let points: Vec<(f64, f64)> = series
                .points
                .iter()
                .filter(|(x, y)| x.is_finite() && y.is_finite())
                .map(|&(x, y)| (x_of(x), y_of(y)))
                .collect();
            if points.is_empty() {
                continue;
            }
            let path: Vec<String> = points
                .iter()
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            let _ = write!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" stroke-linejoin=\"round\"/>",
                path.join(" ")
            );
            if series.dots {
                for (x, y) in points {
                    let _ = write!(
                        svg,
                        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\" fill=\"{colour}\"/>"
                    );
                }
            }
            for (&(x, _), &(low, high)) in series.points.iter().zip(&series.ranges) {
                if low.is_finite() && high.is_finite() {
                    let (x, low, high) = (x_of(x), y_of(low), y_of(high));
                    let _ = write!(
                        svg,
                        "<path d=\"M{:.1} {low:.1}H{:.1}M{x:.1} {low:.1}V{high:.1}M{:.1} {high:.1}H{:.1}\" fill=\"none\" \
                         stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                        x - 5.0,
                        x + 5.0,
                        x - 5.0,
                        x + 5.0
                    );
                }
            }
            // A single line needs no name.
            if series.name.is_empty() {
                continue;
            }
            let y = top + 14.0 + 18.0 * index as f64;
            let (from, to) = (width - right - 200.0, width - right - 176.0);
            let _ = write!(
                svg,
                "<line x1=\"{from}\" x2=\"{to}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"2.5\"/>\
                 <text x=\"{:.1}\" y=\"{y:.1}\" fill=\"var(--ink)\">{}</text>",
                y - 4.0,
                y - 4.0,
                to + 8.0,
                escape(series.name)
            );
        }
        svg.push_str("</svg>");
        Some(svg)
    }
}

/// A linear axis whose ends are round numbers.
pub(super) struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    pub(super) fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let range = values.fold(None, |range: Option<(f64, f64)>, v| {
            Some(range.map_or((v, v), |(low, high)| (low.min(v), high.max(v))))
        });
        let (low, high) = range?;
        // A single value still gets a span around it.
        let span = if high > low {
            high - low
        } else {
            high.abs().max(1.0)
        };
        let rough = span / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .map(|m| m * power)
            .into_iter()
            .find(|&s| s >= rough)?;
        let low = (low / step).floor() * step;
        let high = ((high / step).ceil() * step).max(low + step);
        Some(Self { low, high, step })
    }

    pub(super) fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    pub(super) fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(|i| self.low + i as f64 * self.step)
    }

    /// With as many decimals as the step has.
    pub(super) fn text(&self, value: f64) -> String {
        let decimals = (0..6).find(|&d| {
            let scaled = self.step * 10f64.powi(d);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        });
        format!("{value:.*}", decimals.unwrap_or(6) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Option<String> {
        let series = vec![Series {
            name: "loss <1>",
            points,
            ranges: vec![],
            dots: true,
        }];
        Chart {
            x_label: "step",
            y_label: "loss",
            series,
        }
        .draw()
    }

    #[test]
    fn axes_end_on_round_numbers() {
        let axis = Axis::over([0.43, 0.97].into_iter()).unwrap();
        assert!(
            (axis.low - 0.4).abs() < 1e-9 && (axis.high - 1.0).abs() < 1e-9,
            "{} {}",
            axis.low,
            axis.high
        );
        let ticks: Vec<String> = axis.ticks().map(|t| axis.text(t)).collect();
        assert_eq!(ticks, ["0.4", "0.6", "0.8", "1.0"]);
        let axis = Axis::over([0.0, 2400.0].into_iter()).unwrap();
        assert_eq!(
            axis.ticks().map(|t| axis.text(t)).collect::<Vec<_>>(),
            ["0", "500", "1000", "1500", "2000", "2500"]
        );
        assert!(Axis::over([3.0].into_iter()).is_some());
    }

    #[test]
    fn points_stand_inside_and_higher_means_higher() {
        let svg = chart(vec![(0.0, 1.0), (10.0, 0.5), (20.0, f64::NAN)]).unwrap();
        let line = svg
            .split("polyline points=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let points: Vec<Vec<f64>> = line
            .split(' ')
            .map(|p| p.split(',').map(|v| v.parse().unwrap()).collect())
            .collect();
        assert_eq!(points.len(), 2, "the point that is not finite is left out");
        assert!(points[0][1] < points[1][1] && points[0][0] < points[1][0]);
        assert!(
            points
                .iter()
                .all(|p| p[0] >= 0.0 && p[0] <= SIZE.0 && p[1] >= 0.0 && p[1] <= SIZE.1)
        );
        assert!(svg.contains("loss &lt;1&gt;"));
    }

    #[test]
    fn no_points_no_chart() {
        assert!(chart(vec![]).is_none());
        assert!(chart(vec![(1.0, f64::NAN)]).is_none());
    }

    #[test]
    fn ranges_are_drawn_within_the_axis_and_one_line_has_no_legend() {
        let series = vec![Series {
            name: "",
            points: vec![(0.0, 10.0), (1.0, 11.0)],
            ranges: vec![(4.0, 16.0), (f64::NAN, f64::NAN)],
            dots: false,
        }];
        let chart = Chart {
            x_label: "x",
            y_label: "y",
            series,
        };
        let svg = chart.draw().unwrap();
        let paths: Vec<&str> = svg.split("<path d=\"").skip(1).collect();
        assert_eq!(paths.len(), 1, "one range is finite");
        let (_, ends) = paths[0].split_once(' ').unwrap();
        let number = |text: &str| -> f64 { text.parse().unwrap() };
        let low = number(ends.split('H').next().unwrap());
        let high = number(ends.split('V').nth(1).unwrap().split('M').next().unwrap());
        let (_, top, _, bottom) = MARGIN;
        assert!(
            top <= high && high < low && low <= SIZE.1 - bottom,
            "{low} {high}"
        );
        // The axis reaches from 4 to 16, 12 of which the range takes.
        assert!((low - high) / (SIZE.1 - top - bottom) > 0.5);
        assert!(!svg.contains("stroke-width=\"2.5\""));
    }
}

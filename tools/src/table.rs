//! Results on stdout: as JSON, or as small tables of plain text, the first column to the left, the others to the right.

use std::io::{self, Write};

/// A report on stdout: as JSON where that is asked for, else as its page.
pub(crate) fn show<R: serde::Serialize>(
    report: &R,
    json: bool,
    page: impl FnOnce(&R) -> String,
) -> anyhow::Result<()> {
    let text = match json {
        true => serde_json::to_string_pretty(report)? + "\n",
        false => page(report),
    };
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

/// The table's lines, each ending in a newline.
pub(crate) fn text(head: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = std::iter::once(head)
            .chain(rows.iter().map(Vec::as_slice))
            .filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    let rule = widths
        .iter()
        .map(|&width| "-".repeat(width))
        .collect::<Vec<_>>();
    std::iter::once(line(head))
        .chain([line(&rule)])
        .chain(rows.iter().map(|row| line(row)))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(String::from).to_vec();
        let text = super::text(
            &row(["", "top-1"]),
            &[row(["trained", "50.0%"]), row(["±", "9.0%"])],
        );
        assert_eq!(
            text,
            "         top-1\n-------  -----\ntrained  50.0%\n±         9.0%\n"
        );
    }
}

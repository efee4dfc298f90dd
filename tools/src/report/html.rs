//! Pieces of a page: sections, tables, pictures, and the frame around them.

use std::fmt::Write;

use super::base64;

/// A page that grows from top to bottom.
pub(crate) struct Page {
    title: String,
    body: String,
}

/// A table of words and numbers; the first column names its row.
pub(crate) struct Table {
    /// Over the columns.
    pub(crate) head: Vec<String>,
    /// Each as long as `head`.
    pub(crate) rows: Vec<Vec<String>>,
    /// The row to set apart, if one.
    pub(crate) highlight: Option<usize>,
}

/// Pictures in rows and columns; the first column names its row.
pub(crate) struct Gallery {
    /// Over the columns.
    pub(crate) head: Vec<String>,
    /// The name of each row, and its PNGs, one less than `head` is long.
    pub(crate) rows: Vec<(String, Vec<Vec<u8>>)>,
}

impl Page {
    /// An empty page with a heading and a line of plain text under it.
    pub(crate) fn new(title: &str, subtitle: &str) -> Self {
        let body = format!(
            "<header><h1>{}</h1><p class=\"sub\">{}</p></header>\n",
            escape(title),
            escape(subtitle)
        );
        Self {
            title: title.to_owned(),
            body,
        }
    }

    /// Begins a section.
    pub(crate) fn heading(&mut self, text: &str) {
        let _ = writeln!(self.body, "<h2>{}</h2>", escape(text));
    }

    /// A paragraph of plain text.
    pub(crate) fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escape(text));
    }

    /// Text set as it is, for commands and settings.
    pub(crate) fn preformatted(&mut self, text: &str) {
        let _ = writeln!(self.body, "<pre>{}</pre>", escape(text));
    }

    /// The same, folded away under a line of plain text until it is asked for.
    pub(crate) fn folded(&mut self, summary: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escape(summary),
            escape(text)
        );
    }

    /// Numbers that are the page's message: each with what it means.
    pub(crate) fn tiles(&mut self, tiles: &[(String, String)]) {
        self.body.push_str("<div class=\"tiles\">");
        for (number, meaning) in tiles {
            let _ = write!(
                self.body,
                "<div><b>{}</b><span>{}</span></div>",
                escape(number),
                escape(meaning)
            );
        }
        self.body.push_str("</div>\n");
    }

    /// A table.
    pub(crate) fn table(&mut self, table: &Table) {
        let row = |tag: &str, cells: &[String]| {
            let cells = cells
                .iter()
                .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
            cells.collect::<String>()
        };
        let _ = write!(
            self.body,
            "<div class=\"scroll\"><table><thead><tr>{}</tr></thead><tbody>",
            row("th", &table.head)
        );
        for (index, cells) in table.rows.iter().enumerate() {
            let class = if table.highlight == Some(index) {
                " class=\"mark\""
            } else {
                ""
            };
            let _ = write!(self.body, "<tr{class}>{}</tr>", row("td", cells));
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    /// A chart, as [`super::svg`] draws it, with a caption of plain text.
    pub(crate) fn chart(&mut self, svg: &str, caption: &str) {
        let _ = writeln!(
            self.body,
            "<figure>{svg}<figcaption>{}</figcaption></figure>",
            escape(caption)
        );
    }

    /// A PNG, enlarged without smoothing, with a caption that also stands in for it where it cannot be seen.
    pub(crate) fn picture(&mut self, png: &[u8], caption: &str) {
        let caption = escape(caption);
        let _ = writeln!(
            self.body,
            "<figure><img alt=\"{caption}\" src=\"data:image/png;base64,{}\"><figcaption>{caption}</figcaption></figure>",
            base64::encode(png)
        );
    }

    /// Pictures in rows and columns, with a caption of plain text.
    pub(crate) fn gallery(&mut self, gallery: &Gallery, caption: &str) {
        let head = gallery.head.iter();
        let head: String = head
            .map(|cell| format!("<th>{}</th>", escape(cell)))
            .collect();
        let _ = write!(
            self.body,
            "<figure><div class=\"scroll\"><table class=\"gallery\"><thead><tr>{head}</tr></thead><tbody>"
        );
        for (name, pictures) in &gallery.rows {
            let _ = write!(self.body, "<tr><td>{}</td>", escape(name));
            for (png, column) in pictures.iter().zip(gallery.head.iter().skip(1)) {
                let _ = write!(
                    self.body,
                    "<td><img alt=\"{}: {}\" src=\"data:image/png;base64,{}\"></td>",
                    escape(name),
                    escape(column),
                    base64::encode(png)
                );
            }
            self.body.push_str("</tr>");
        }
        let _ = writeln!(
            self.body,
            "</tbody></table></div><figcaption>{}</figcaption></figure>",
            escape(caption)
        );
    }

    /// The whole document.
    pub(crate) fn finish(self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>{STYLE}</style>\n</head>\n\
             <body><main>\n{}</main></body>\n</html>\n",
            escape(&self.title),
            self.body
        )
    }
}

/// Text made safe between tags and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// Colours stand at the top, once for light and once for dark; charts use them too.
const STYLE: &str = "
:root{--ground:#fcfcfa;--panel:#f1f0ec;--ink:#20211f;--soft:#65665f;--rule:#d9d8d1;--a:#1f6f8b;--b:#c2571a;--mark:#e3eff2}
@media(prefers-color-scheme:dark){:root{--ground:#161817;--panel:#202322;--ink:#e8e8e3;--soft:#a0a29a;--rule:#383b39;--a:#6fc3df;--b:#f0985c;--mark:#1d3238}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem}
p{max-width:46rem;margin:.5rem 0}
.sub,figcaption{color:var(--soft)}
figcaption{font-size:.875rem;margin-top:.5rem;max-width:46rem}
figure{margin:1rem 0}
img{display:block;width:100%;image-rendering:pixelated;border-radius:4px}
svg{display:block;width:100%;height:auto}
summary{cursor:pointer;color:var(--soft)}
pre{background:var(--panel);padding:.8rem 1rem;border-radius:6px;overflow-x:auto;font-size:.85rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem;margin:1.4rem 0}
.tiles div{background:var(--panel);border-radius:8px;padding:.9rem 1rem}
.tiles b{display:block;font-size:1.7rem;line-height:1.2;font-variant-numeric:tabular-nums}
.tiles span{color:var(--soft);font-size:.875rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.45rem .7rem;border-bottom:1px solid var(--rule);white-space:pre}
th:first-child,td:first-child{text-align:left}
td:first-child{min-width:7rem;white-space:normal;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:600;font-size:.875rem;white-space:normal;vertical-align:bottom}
.gallery{width:auto}
.gallery td,.gallery th{border:0;padding:.25rem .3rem;text-align:left;white-space:normal;max-width:14rem;overflow-wrap:anywhere}
.gallery td:first-child{min-width:5rem}
.gallery img{width:8rem;min-width:8rem}
.mark td{background:var(--mark);font-weight:600}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_out() {
        let mut page = Page::new("a < b", "\"quoted\" & 'single'");
        page.paragraph("<script>alert(1)</script>");
        page.picture(&[1, 2, 3], "x\" onerror=\"y");
        let html = page.finish();
        assert!(html.contains("<h1>a &lt; b</h1>"));
        assert!(!html.contains("<script"));
        assert!(!html.contains("x\" onerror"));
        assert!(html.contains("data:image/png;base64,AQID"));
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let mut page = Page::new("t", "s");
        page.picture(&[0], "p");
        let html = page.finish();
        assert!(!html.contains("http") && !html.contains("url(") && !html.contains("<link"));
    }

    #[test]
    fn a_gallery_names_every_picture() {
        let mut page = Page::new("t", "s");
        let gallery = Gallery {
            head: vec!["".into(), "original".into(), "run <a>".into()],
            rows: vec![("cat/7".into(), vec![vec![1, 2, 3], vec![4, 5, 6]])],
        };
        page.gallery(&gallery, "the same images");
        let html = page.finish();
        assert!(html.contains("alt=\"cat/7: original\" src=\"data:image/png;base64,AQID\""));
        assert!(html.contains("alt=\"cat/7: run &lt;a&gt;\" src=\"data:image/png;base64,BAUG\""));
    }

    #[test]
    fn a_table_keeps_its_order() {
        let mut page = Page::new("t", "s");
        page.table(&Table {
            head: vec!["".into(), "kNN".into()],
            rows: vec![
                vec!["random".into(), "9%".into()],
                vec!["trained".into(), "50%".into()],
            ],
            highlight: Some(1),
        });
        let html = page.finish();
        assert!(
            html.contains("<tr><td>random</td><td>9%</td></tr><tr class=\"mark\"><td>trained</td>")
        );
    }
}

//! A contact sheet: the same images under more and more removed patches.

use super::{PAPER, Picture, Reconstruction, zoom_of};

/// One mask ratio's reconstructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Share of the patches removed, in percent.
    pub percent: u32,
    /// The images, in the same order in every column.
    pub images: Vec<Reconstruction>,
}

/// Between pictures of one image, and between images.
const GAP: usize = 4;
const SPACE: usize = 16;
/// The side of a glyph's dots, and the height of the line of headings.
const DOT: usize = 3;
const HEADING: usize = 7 * DOT + SPACE;
const INK: [u8; 3] = [64; 3];

/// A row for each image, a column for each ratio: masked above, reconstructed below; the image as it was stands first in its row.
/// Each column is headed by its ratio in percent. Small images are enlarged.
pub fn contact_sheet(columns: &[Column]) -> Picture {
    let originals = columns.first().map_or(&[][..], |column| &column.images);
    let Some(first) = originals.first() else {
        return Picture::new(1, 1, PAPER);
    };
    let zoom = zoom_of(&first.original);
    let (width, height) = (first.original.width * zoom, first.original.height * zoom);
    let row = 2 * height + GAP;
    let mut sheet = Picture::new(
        2 * SPACE + width + columns.len() * (width + GAP) + SPACE - GAP,
        HEADING + originals.len() * (row + SPACE),
        PAPER,
    );
    let top_of = |image: usize| HEADING + image * (row + SPACE);
    for (image, three) in originals.iter().enumerate() {
        let centred = top_of(image) + (row - height) / 2;
        sheet.paste(&three.original, SPACE, centred, zoom);
    }
    for (number, column) in columns.iter().enumerate() {
        let left = 2 * SPACE + width + number * (width + GAP);
        let heading = heading(column.percent);
        let indent = width.saturating_sub(heading.width * DOT) / 2;
        if heading.width * DOT <= width {
            sheet.paste(&heading, left + indent, SPACE / 2, DOT);
        }
        for (image, three) in column.images.iter().enumerate() {
            let top = top_of(image);
            sheet.paste(&three.masked, left, top, zoom);
            sheet.paste(&three.reconstructed, left, top + height + GAP, zoom);
        }
    }
    sheet
}

/// Digits and the percent sign, five rows of dots each; the highest of the three bits (five for the sign) is on the left.
const DIGITS: [[u8; 5]; 10] = [
    [0b111, 0b101, 0b101, 0b101, 0b111],
    [0b010, 0b110, 0b010, 0b010, 0b111],
    [0b111, 0b001, 0b111, 0b100, 0b111],
    [0b111, 0b001, 0b111, 0b001, 0b111],
    [0b101, 0b101, 0b111, 0b001, 0b001],
    [0b111, 0b100, 0b111, 0b001, 0b111],
    [0b111, 0b100, 0b111, 0b101, 0b111],
    [0b111, 0b001, 0b010, 0b010, 0b010],
    [0b111, 0b101, 0b111, 0b101, 0b111],
    [0b111, 0b101, 0b111, 0b001, 0b111],
];
const PERCENT: [u8; 5] = [0b11001, 0b11010, 0b00100, 0b01011, 0b10011];

/// `percent` and its sign, a pixel a dot.
fn heading(percent: u32) -> Picture {
    let digits = percent.to_string();
    let digits = digits
        .bytes()
        .map(|digit| DIGITS[usize::from(digit - b'0')]);
    let glyphs: Vec<([u8; 5], usize)> = digits
        .map(|digit| (digit, 3))
        .chain([(PERCENT, 5)])
        .collect();
    let width = glyphs.iter().map(|(_, width)| width + 1).sum::<usize>() - 1;
    let mut picture = Picture::new(width, 5, PAPER);
    let mut left = 0;
    for (rows, width) in glyphs {
        for (y, bits) in rows.into_iter().enumerate() {
            for x in (0..width).filter(|x| bits >> (width - 1 - x) & 1 == 1) {
                let at = 3 * (y * picture.width + left + x);
                picture.rgb[at..at + 3].copy_from_slice(&INK);
            }
        }
        left += width + 1;
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(tone: u8) -> Reconstruction {
        let of = |more: u8| Picture::new(64, 32, [tone + more; 3]);
        Reconstruction {
            masked: of(0),
            reconstructed: of(1),
            original: of(2),
        }
    }

    #[test]
    fn every_picture_has_its_place() {
        let column = |percent, tone| Column {
            percent,
            images: vec![three(tone), three(tone + 10)],
        };
        let sheet = contact_sheet(&[column(50, 10), column(75, 30)]);
        // Images of 64 by 32 are shown at twice their size.
        assert_eq!(
            (sheet.width, sheet.height),
            (3 * 16 + 128 + 128 + 4 + 128, 37 + 2 * (64 + 4 + 64 + 16))
        );
        let at = |x: usize, y: usize| sheet.rgb[3 * (y * sheet.width + x)];
        for (image, top) in [37, 37 + 148].into_iter().enumerate() {
            let tone = 10 * image as u8;
            assert_eq!(at(16 + 127, top + 34), 12 + tone);
            for (left, first) in [(160, 10), (292, 30)] {
                assert_eq!(at(left, top), first + tone);
                assert_eq!(at(left + 127, top + 63), first + tone);
                assert_eq!(at(left, top + 68), first + tone + 1);
                assert_eq!(at(left + 127, top + 131), first + tone + 1);
            }
        }
        let inked = (0..sheet.width).any(|x| at(x, 9) == INK[0]);
        assert!(inked, "columns are headed");
        assert_eq!(contact_sheet(&[]), Picture::new(1, 1, PAPER));
    }

    #[test]
    fn headings_read_as_numbers() {
        let picture = heading(75);
        let line = |y: usize| -> String {
            let row = &picture.rgb[3 * y * picture.width..3 * (y + 1) * picture.width];
            row.chunks_exact(3)
                .map(|dot| if dot == INK { '#' } else { ' ' })
                .collect()
        };
        assert_eq!(line(0), "### ### ##  #");
        assert_eq!(line(4), " #  ### #  ##");
    }
}

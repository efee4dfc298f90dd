//! The terminal's standard error: bars and log lines that do not overwrite each other.

use std::io::{self, Write};
use std::sync::OnceLock;

use indicatif::MultiProgress;

/// All bars of the process. Draws nothing where standard error is no terminal.
pub(crate) fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// Standard error for log lines, with the bars out of the way while a line is written.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        bars().suspend(|| io::stderr().write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

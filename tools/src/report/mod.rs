//! Report pages: one HTML file that opens from disk, with charts and pictures inside it and nothing loaded from elsewhere.
//! Not here: what a report says, which is its subcommand's business.

pub(crate) mod bars;
mod base64;
pub(crate) mod html;
pub(crate) mod svg;

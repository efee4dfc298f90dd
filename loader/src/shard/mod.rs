//! The tar format: index, header scan, writer.

//! TensorBoard's event files: what the log has, as curves, and the pictures, as images.
//!
//! A file is a sequence of records: length, its checksum, an `Event` message, its checksum (TensorFlow's `tfrecord`, CRC-32C masked). Of
//! the messages (`event.proto`, `summary.proto`) only the few fields that are written here are known. Each part of a run writes a file
//! of its own and begins it with the step that it goes on from, behind which TensorBoard then forgets what earlier files have.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// The open event file of a run.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a file in `folder`, which is made, of a run that goes on from `step`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        let time = now();
        // TensorBoard orders a folder's files by their names; the process tells two of one second apart.
        let process = std::process::id();
        let path = folder.join(format!("events.out.tfevents.{time:017.6}.mae.{process}"));
        let created = fs::create_dir_all(folder)
            .and_then(|()| File::options().create_new(true).append(true).open(&path));
        let file = created.map_err(|source| Error::Write {
            path: path.clone(),
            source,
        })?;
        let mut events = EventFile { path, file };
        let mut version = Message::default();
        version.double(1, time);
        version.bytes(3, b"brain.Event:2");
        let mut status = Message::default();
        status.varint(1, SESSION_START);
        let mut start = Message::default();
        start.double(1, time);
        start.varint(2, step + 1);
        start.message(7, &status);
        events.append(&[version, start])?;
        Ok(events)
    }

    /// Numbers of one step, each by its name; those that are not finite, too, as TensorBoard shows them.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Message::default();
        for (name, value) in values {
            let mut scalar = Message::default();
            scalar.bytes(1, name.as_bytes());
            scalar.float(2, *value as f32);
            summary.message(1, &scalar);
        }
        self.summary(step, &summary)
    }

    /// A PNG of one step, `width` by `height` pixels.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn image(&mut self, step: u64, name: &str, png: &[u8], size: (usize, usize)) -> Result<()> {
        let (width, height) = size;
        let mut image = Message::default();
        image.varint(1, height as u64);
        image.varint(2, width as u64);
        image.varint(3, RGB);
        image.bytes(4, png);
        let mut value = Message::default();
        value.bytes(1, name.as_bytes());
        value.message(4, &image);
        let mut summary = Message::default();
        summary.message(1, &value);
        self.summary(step, &summary)
    }

    fn summary(&mut self, step: u64, summary: &Message) -> Result<()> {
        let mut event = Message::default();
        event.double(1, now());
        event.varint(2, step);
        event.message(5, summary);
        self.append(&[event])
    }

    /// Writes records in one go, so that a reader sees whole ones.
    fn append(&mut self, events: &[Message]) -> Result<()> {
        let records: Vec<u8> = events.iter().flat_map(|event| record(&event.0)).collect();
        self.file
            .write_all(&records)
            .map_err(|source: io::Error| Error::Write {
                path: self.path.clone(),
                source,
            })
    }
}

/// `SessionLog.START`.
const SESSION_START: u64 = 1;
/// `Summary.Image.colorspace` of three channels.
const RGB: u64 = 3;

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// A record of the file format.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted so that the checksum of data with checksums in them does not degenerate.
fn masked_crc(data: &[u8]) -> u32 {
    static CASTAGNOLI: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    CASTAGNOLI
        .checksum(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// A protocol buffers message being written; fields go in by their numbers.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u64, wire_type: u64) {
        self.number(field << 3 | wire_type);
    }

    /// Seven bits a byte, the lowest first, the highest bit set in all but the last.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.number(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.number(value.len() as u64);
        self.0.extend(value);
    }

    fn message(&mut self, field: u64, value: &Message) {
        self.bytes(field, &value.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_format() {
        // RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 8a9136aa.
        let crc = 0x8a91_36aa_u32;
        assert_eq!(
            masked_crc(&[0; 32]),
            crc.rotate_right(15).wrapping_add(0xa282_ead8)
        );
    }

    #[test]
    fn messages_are_encoded_as_protocol_buffers() {
        // The examples of the encoding's documentation.
        let mut message = Message::default();
        message.varint(1, 150);
        assert_eq!(message.0, [0x08, 0x96, 0x01]);
        let mut message = Message::default();
        message.bytes(2, b"testing");
        assert_eq!(
            message.0,
            [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]
        );
        let mut outer = Message::default();
        let mut inner = Message::default();
        inner.varint(1, 150);
        outer.message(3, &inner);
        assert_eq!(outer.0, [0x1a, 0x03, 0x08, 0x96, 0x01]);
    }

    #[test]
    fn each_part_of_a_run_has_a_file_of_whole_records() {
        let root = tempfile::tempdir().unwrap();
        for step in [0, 10] {
            let mut events = EventFile::create(root.path(), step).unwrap();
            events
                .scalars(step + 1, &[("loss/train", 0.5), ("lr", f64::NAN)])
                .unwrap();
            events
                .image(step + 1, "reconstructions", &[1, 2, 3], (4, 5))
                .unwrap();
        }
        let mut files: Vec<_> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert_eq!(files.len(), 2);
        for file in files {
            let bytes = fs::read(file).unwrap();
            let mut rest = &bytes[..];
            let mut records = 0;
            while !rest.is_empty() {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                assert_eq!(rest[8..12], masked_crc(&rest[..8]).to_le_bytes());
                let data = &rest[12..12 + length];
                assert_eq!(
                    rest[12 + length..16 + length],
                    masked_crc(data).to_le_bytes()
                );
                rest = &rest[16 + length..];
                records += 1;
            }
            assert_eq!(records, 4);
        }
    }
}

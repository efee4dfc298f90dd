//! Runs `mae` in a folder of its own, and makes small images for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// Settings of a model that trains in a moment, in images of 16 patches.
pub(crate) const SMALL_MODEL: &str = r#"
model = "mae-micro-patch4"
input-size = 16
dim = 24
depth = 2
heads = 2
decoder-dim = 16
decoder-depth = 1
decoder-heads = 2
"#;

/// A temporary folder to run in.
pub(crate) struct Scene(tempfile::TempDir);

/// What a run left.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// With `photos`, three classes of 17, and the shards `data` of them.
    pub(crate) fn with_shards() -> Self {
        let scene = Self::new();
        scene.image_folder("photos", 3, 17);
        scene
            .mae(&["shard", "photos", "data", "--max-count", "20"])
            .done();
        scene
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file, with the folders above it.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, bytes).expect("a file");
    }

    /// `classes` folders of `each` JPEG files under `name`.
    pub(crate) fn image_folder(&self, name: &str, classes: u8, each: u8) {
        for class in 0..classes {
            for number in 0..each {
                let path = format!("{name}/class{class}/{number:03}.jpg");
                self.write(&path, &jpeg(8 + u32::from(number % 5), class * 20 + number));
            }
        }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mae"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env("TMPDIR", self.0.path())
            .env_remove("MAE_LOG_LEVEL");
        command
    }

    /// `mae ARGS` in the folder.
    pub(crate) fn mae(&self, args: &[&str]) -> Ran {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(args).output().expect("mae runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Ran {
            code: status.code(),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }

    /// Names in a folder, hidden ones too, in order.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).expect("a folder");
        let mut names: Vec<_> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    /// `mae inspect --json` of `spec`.
    pub(crate) fn inspect(&self, spec: &str) -> serde_json::Value {
        let ran = self.mae(&["inspect", "--json", spec]).done();
        serde_json::from_str(&ran.stdout).expect("JSON on stdout")
    }
}

impl Ran {
    /// Expects exit code 0.
    pub(crate) fn done(self) -> Self {
        assert_eq!(
            self.code,
            Some(0),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Expects an exit code, and gives what was said on stderr.
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self.stderr
    }
}

/// A JPEG, `side` pixels wide and high.
pub(crate) fn jpeg(side: u32, tone: u8) -> Vec<u8> {
    jpeg_of(side, side, tone)
}

/// A JPEG of any shape.
pub(crate) fn jpeg_of(width: u32, height: u32, tone: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height * 3)
        .map(|i| (i as u8).wrapping_add(tone))
        .collect();
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, 90)
        .encode(
            &pixels,
            width as u16,
            height as u16,
            jpeg_encoder::ColorType::Rgb,
        )
        .expect("a JPEG");
    bytes
}

/// An image in another format, by the ending of `name`.
pub(crate) fn other(name: &Path, side: u32) -> Vec<u8> {
    let image = DynamicImage::ImageRgb8(RgbImage::from_pixel(side, side, Rgb([200, 100, 50])));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image
        .write_to(
            &mut bytes,
            ImageFormat::from_path(name).expect("a known format"),
        )
        .expect("an image");
    bytes.into_inner()
}

//! An opened, indexed dataset: every sample's members by number, read by offset from any thread.
//!
//! It holds no order and no cursor: what comes when is the subject of [`Loader`](crate::Loader).

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::classes::Labels;
use crate::error::{Error, Result};
use crate::label::LabelSource;
use crate::open::{self, Indexes, OpenShard};
use crate::parallel;
use crate::sample::{Member, SampleId};
use crate::shard::ShardTable;
use crate::source::Encoding;
use crate::spec;

/// A member larger than this is damage or an attack, not an image.
const MAX_MEMBER_BYTES: u64 = 1 << 30;

/// How [`Dataset::open`] reads shards.
#[derive(Debug, Clone)]
pub struct DatasetOptions {
    /// Suffixes of image members, in order of preference, lower case.
    pub image_suffixes: Vec<String>,
    /// Where labels come from.
    pub labels: LabelSource,
    /// Class names to map string labels by, in place of `classes.json` or the values found. Give the training set's
    /// names when opening a validation set.
    pub classes: Option<Vec<String>>,
    /// Folder for inflated shards; by default one in the system's temporary folder.
    pub cache_dir: Option<PathBuf>,
    /// Bound on the bytes in that folder.
    pub cache_bytes: u64,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self {
            image_suffixes: ["jpg", "jpeg", "png"].map(String::from).to_vec(),
            labels: LabelSource::default(),
            classes: None,
            cache_dir: None,
            cache_bytes: 32 << 30,
        }
    }
}

/// One shard of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardInfo {
    /// The shard as named by the spec.
    pub name: String,
    /// Usable samples in it: those with an image.
    pub samples: u32,
    /// Samples passed over for want of an image.
    pub without_image: u32,
    /// Size of the file as stored, compressed where it is.
    pub bytes: u64,
    /// How it is stored.
    pub encoding: Encoding,
    /// Whether its members come from `index.json` rather than from its own headers.
    pub indexed: bool,
    /// What is odd about it but did not stop it from being read.
    pub notes: Vec<String>,
}

/// An opened dataset. Cheap to share in an `Arc`; all methods may be called from many threads at once.
///
/// Methods that take a [`SampleId`] panic, as indexing does, where it is not of this dataset.
#[derive(Debug)]
pub struct Dataset {
    shards: Vec<Shard>,
    infos: Vec<ShardInfo>,
    samples: u64,
    digest: String,
    labels: Labels,
}

#[derive(Debug)]
struct Shard {
    open: OpenShard,
    usable: Vec<Usable>,
}

/// A sample with an image.
#[derive(Debug, Clone, Copy)]
struct Usable {
    /// Its place in the shard's table.
    sample: u32,
    /// The image's place among the members of the shard.
    image: u32,
}

impl Dataset {
    /// Opens the shards that `specs` name (see [`crate::spec`]), reading `index.json` where it fits and the tars'
    /// headers where not. Compressed shards are inflated into the cache first.
    ///
    /// # Errors
    /// Where specs name nothing, a shard is damaged, the cache is too small, or no sample has an image.
    pub fn open<S: AsRef<str>>(specs: &[S], options: &DatasetOptions) -> Result<Self> {
        let set = spec::resolve(specs)?;
        let opened = open::open_all(
            &set,
            options.cache_dir.as_deref(),
            options.cache_bytes,
            Indexes::Use,
        )?;
        let shards = parallel::try_map(&opened, |_, open| {
            select_images(open, &options.image_suffixes)
        })?;
        let shards: Vec<Shard> = opened
            .into_iter()
            .zip(shards)
            .map(|(open, usable)| Shard { open, usable })
            .collect();

        let infos: Vec<ShardInfo> = shards.iter().map(Shard::info).collect();
        for info in &infos {
            if info.samples == 0 {
                tracing::warn!(
                    "{}: no usable sample ({} without an image)",
                    info.name,
                    info.without_image
                );
            } else if info.without_image > 0 {
                tracing::warn!(
                    "{}: passing over {} samples without an image",
                    info.name,
                    info.without_image
                );
            }
        }
        let samples = infos.iter().map(|info| u64::from(info.samples)).sum();
        if samples == 0 {
            let spec = specs
                .iter()
                .map(|s| s.as_ref())
                .collect::<Vec<_>>()
                .join(" ");
            let suffixes = options.image_suffixes.join(", ");
            return Err(Error::NoSamples {
                spec,
                shards: shards.len(),
                suffixes,
            });
        }
        let digest = digest(&shards);
        let mut dataset = Self {
            shards,
            infos,
            samples,
            digest,
            labels: Labels::none(),
        };
        dataset.labels = Labels::find(&dataset, &set, options)?;
        Ok(dataset)
    }

    /// The shards in the order of the specs.
    pub fn shards(&self) -> &[ShardInfo] {
        &self.infos
    }

    /// Number of usable samples; at least one.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a dataset without samples does not open"
    )]
    pub fn len(&self) -> u64 {
        self.samples
    }

    /// Number of usable samples of a shard.
    pub fn shard_len(&self, shard: u32) -> u32 {
        self.infos[shard as usize].samples
    }

    /// All usable samples, in the order of the shards.
    pub fn ids(&self) -> impl Iterator<Item = SampleId> + '_ {
        (0..).zip(&self.infos).flat_map(|(shard, info)| {
            (0..info.samples).map(move |ordinal| SampleId { shard, ordinal })
        })
    }

    /// SHA-256, in hexadecimal, over the shards' base names and the usable samples' keys, suffixes and sizes in order:
    /// equal digests mean that a [`SampleId`] names the same sample.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The sample's key: the path of its members in the tar up to the first dot of the base name.
    pub fn key(&self, id: SampleId) -> &str {
        let (shard, usable) = self.usable(id);
        shard.open.table.sample(usable.sample as usize).key
    }

    /// Shard and key, for messages.
    pub fn describe(&self, id: SampleId) -> String {
        format!("{}: {}", self.infos[id.shard as usize].name, self.key(id))
    }

    /// All samples of a shard, usable or not.
    pub fn table(&self, shard: u32) -> &ShardTable {
        &self.shards[shard as usize].open.table
    }

    /// The sample's members, in the order of the tar.
    pub fn members(&self, id: SampleId) -> &[Member] {
        let (shard, usable) = self.usable(id);
        shard.open.table.sample(usable.sample as usize).members
    }

    /// The member that holds the image.
    pub fn image_member(&self, id: SampleId) -> &Member {
        let (shard, usable) = self.usable(id);
        shard.open.table.member(usable.image)
    }

    /// Replaces the content of `buffer` by the image's bytes.
    ///
    /// # Errors
    /// Where the shard cannot be read or has changed since it was opened.
    pub fn read_image(&self, id: SampleId, buffer: &mut Vec<u8>) -> Result<()> {
        self.read_member(id, self.image_member(id), buffer)
    }

    /// Replaces the content of `buffer` by the bytes of a member of the sample.
    ///
    /// # Errors
    /// As for [`read_image`](Self::read_image).
    pub fn read_member(&self, id: SampleId, member: &Member, buffer: &mut Vec<u8>) -> Result<()> {
        let failed = |reason: String| Error::Member {
            sample: self.describe(id),
            suffix: member.suffix.to_string(),
            offset: member.offset,
            reason,
        };
        if member.size > MAX_MEMBER_BYTES {
            return Err(failed(format!(
                "{} bytes, more than the {MAX_MEMBER_BYTES} that are read",
                member.size
            )));
        }
        buffer.clear();
        buffer.resize(member.size as usize, 0);
        let source = &self.shards[id.shard as usize].open.source;
        source
            .read_exact_at(buffer, member.offset)
            .map_err(|e| failed(format!("cannot read: {e}")))
    }

    /// The sample's class index; `Ok(None)` where the dataset has no labels at all.
    ///
    /// # Errors
    /// Where other samples have a label and this one has none, or one that cannot be understood.
    pub fn label(&self, id: SampleId) -> Result<Option<u32>> {
        self.labels.get(self, id)
    }

    /// Whether samples have labels.
    pub fn has_labels(&self) -> bool {
        self.labels.any()
    }

    /// Names of the classes by index: `classes.json` beside the shards, or the sorted set of string labels.
    pub fn classes(&self) -> Option<&[String]> {
        self.labels.classes()
    }

    fn usable(&self, id: SampleId) -> (&Shard, Usable) {
        let shard = &self.shards[id.shard as usize];
        (shard, shard.usable[id.ordinal as usize])
    }
}

impl Shard {
    fn info(&self) -> ShardInfo {
        let samples = self.usable.len() as u32;
        let open = &self.open;
        ShardInfo {
            name: open.name.clone(),
            samples,
            without_image: open.table.len() as u32 - samples,
            bytes: open.stored_bytes,
            encoding: open.encoding,
            indexed: open.indexed,
            notes: open.notes.clone(),
        }
    }
}

/// The samples of `shard` that have an image, with the image of the first suffix in `suffixes` that they have.
fn select_images(shard: &OpenShard, suffixes: &[String]) -> Result<Vec<Usable>> {
    let mut usable = Vec::with_capacity(shard.table.len());
    for (sample, view) in shard.table.samples().enumerate() {
        let image = suffixes
            .iter()
            .find_map(|suffix| view.members.iter().position(|m| *m.suffix == **suffix));
        if let Some(image) = image {
            let image = shard.table.member_places(sample).start + image;
            let too_many = |_| Error::Shard {
                shard: shard.name.clone(),
                offset: 0,
                reason: "more than 4 billion members; write smaller shards".into(),
            };
            usable.push(Usable {
                sample: u32::try_from(sample).map_err(too_many)?,
                image: u32::try_from(image).map_err(too_many)?,
            });
        }
    }
    Ok(usable)
}

fn digest(shards: &[Shard]) -> String {
    let mut hash = Sha256::new();
    let mut text = |part: &str| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    text("mae dataset 1");
    for shard in shards {
        text(&shard.open.base_name);
        text(&shard.usable.len().to_string());
        for usable in &shard.usable {
            let sample = shard.open.table.sample(usable.sample as usize);
            text(sample.key);
            text(&shard.open.table.member(usable.image).suffix);
            text(&sample.members.len().to_string());
            for member in sample.members {
                text(&member.suffix);
                text(&member.size.to_string());
            }
        }
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::shard::testing::{gzip, tar};
    use crate::shard::{INDEX_FILE, Index, build_index};

    fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    fn open(dir: &tempfile::TempDir, labels: &str) -> Result<Dataset> {
        let options = DatasetOptions {
            labels: labels.parse().unwrap(),
            cache_dir: Some(dir.path().join("cache")),
            ..DatasetOptions::default()
        };
        Dataset::open(&[dir.path().to_str().unwrap()], &options)
    }

    fn labels(dataset: &Dataset) -> Vec<Option<u32>> {
        dataset.ids().map(|id| dataset.label(id).unwrap()).collect()
    }

    #[test]
    fn samples_without_an_image_are_passed_over() {
        let shard = tar(&[
            ("a.cls", b"1"),
            ("b.jpg", b"B"),
            ("c.png", b"C"),
            ("c.jpeg", b"D"),
            ("d.cls", b"0"),
            ("d.jpg", b"E"),
        ]);
        let dir = folder(&[("0.tar", shard), ("1.tar", tar(&[]))]);
        let dataset = open(&dir, "none").unwrap();
        let mut image = Vec::new();
        let images: Vec<u8> = dataset
            .ids()
            .flat_map(|id| {
                dataset.read_image(id, &mut image).unwrap();
                image.clone()
            })
            .collect();
        assert_eq!(
            images, b"BDE",
            "of several images the first suffix of the options is taken"
        );
        assert_eq!(
            (
                dataset.shards()[0].samples,
                dataset.shards()[0].without_image
            ),
            (3, 1)
        );
        assert_eq!(dataset.shard_len(1), 0);
        assert!(!dataset.has_labels());

        let dir = folder(&[("0.tar", tar(&[("a.cls", b"1")]))]);
        assert!(matches!(
            open(&dir, "none"),
            Err(Error::NoSamples { shards: 1, .. })
        ));
    }

    #[test]
    fn labels_come_from_text_or_json_or_not_at_all() {
        let none = folder(&[("0.tar", tar(&[("a.jpg", b"x")]))]);
        assert_eq!(labels(&open(&none, "cls").unwrap()), [None]);
        assert!(
            open(&none, "json:wnid")
                .unwrap_err()
                .to_string()
                .contains("json:wnid")
        );

        let some = folder(&[(
            "0.tar",
            tar(&[("a.jpg", b"x"), ("a.cls", b"4"), ("b.jpg", b"x")]),
        )]);
        let dataset = open(&some, "cls").unwrap();
        assert_eq!(
            dataset
                .label(SampleId {
                    shard: 0,
                    ordinal: 0
                })
                .unwrap(),
            Some(4)
        );
        let error = dataset
            .label(SampleId {
                shard: 0,
                ordinal: 1,
            })
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("0.tar: b") && error.contains(".cls"),
            "{error}"
        );
        fs::write(some.path().join("classes.json"), r#"["a", "b"]"#).unwrap();
        let error = open(&some, "cls")
            .unwrap()
            .label(SampleId {
                shard: 0,
                ordinal: 0,
            })
            .unwrap_err()
            .to_string();
        assert!(error.contains("lists 2 classes"), "{error}");

        let named = tar(&[
            ("a.jpg", b"x"),
            ("a.json", br#"{"w":"n2"}"#),
            ("b.jpg", b"x"),
            ("b.json", br#"{"w":"n1"}"#),
        ]);
        let named = folder(&[("0.tar", named)]);
        let dataset = open(&named, "json:w").unwrap();
        assert_eq!(
            (labels(&dataset), dataset.classes().unwrap()),
            (vec![Some(1), Some(0)], &["n1".into(), "n2".into()][..])
        );
        fs::write(named.path().join("classes.json"), r#"["n3", "n2", "n1"]"#).unwrap();
        assert_eq!(labels(&open(&named, "json:w").unwrap()), [Some(1), Some(2)]);
        fs::write(named.path().join("classes.json"), "{}").unwrap();
        assert!(matches!(open(&named, "json:w"), Err(Error::Index { .. })));
    }

    #[test]
    fn an_index_that_does_not_fit_gives_way_to_the_tar() {
        let before = tar(&[("a.jpg", b"first"), ("b.jpg", b"second")]);
        let dir = folder(&[("0.tar.gz", gzip(&before)), ("1.tar.gz", gzip(&before))]);
        let spec = [dir.path().to_str().unwrap()];
        let cache = dir.path().join("cache");
        let built = build_index(&spec, Some(&cache), 1 << 20, true).unwrap();
        assert_eq!((built[0].shards, built[0].samples), (2, 4));
        assert!(
            open(&dir, "none")
                .unwrap()
                .shards()
                .iter()
                .all(|shard| shard.indexed)
        );

        // The same lengths, stored and inflated, and other places: only the headers tell.
        let after = tar(&[("a.jpg", b"a sentence of some length"), ("b.jpg", b"!")]);
        let (stored, size) = (gzip(&after), gzip(&before).len() as u64);
        fs::write(dir.path().join("1.tar.gz"), &stored).unwrap();
        let path = dir.path().join(INDEX_FILE);
        let mut index = Index::read(&path).unwrap().unwrap();
        assert_eq!(
            (before.len(), index.shardlist[1].filesize),
            (after.len(), size)
        );
        index.shardlist[1].filesize = stored.len() as u64;
        index.write(&path).unwrap();

        let dataset = open(&dir, "none").unwrap();
        assert_eq!(
            dataset
                .shards()
                .iter()
                .map(|s| s.indexed)
                .collect::<Vec<_>>(),
            [true, false]
        );
        assert!(
            dataset.shards()[1].notes[0].contains("mae index"),
            "{:?}",
            dataset.shards()[1].notes
        );
        let mut image = Vec::new();
        dataset
            .read_image(
                SampleId {
                    shard: 1,
                    ordinal: 0,
                },
                &mut image,
            )
            .unwrap();
        assert_eq!(image, b"a sentence of some length");

        fs::remove_file(dir.path().join("0.tar.gz")).unwrap();
        let error = open(&dir, "none").unwrap_err().to_string();
        assert!(
            error.contains("0.tar.gz") && error.contains("not there"),
            "{error}"
        );
        build_index(&spec, Some(&cache), 1 << 20, false).unwrap();
        assert_eq!(open(&dir, "none").unwrap().len(), 2);

        fs::write(&path, "{").unwrap();
        assert_eq!(
            open(&dir, "none").unwrap().len(),
            2,
            "a broken index is passed over"
        );
    }

    #[test]
    fn the_digest_pins_names_order_and_sizes() {
        let digest = |name: &str, members: &[(&str, &[u8])]| {
            open(&folder(&[(name, tar(members))]), "none")
                .unwrap()
                .digest()
                .to_owned()
        };
        let base = digest("0.tar", &[("a.jpg", b"x"), ("b.jpg", b"y")]);
        assert_eq!(base.len(), 64);
        assert_eq!(base, digest("0.tar", &[("a.jpg", b"x"), ("b.jpg", b"y")]));
        for other in [
            digest("1.tar", &[("a.jpg", b"x"), ("b.jpg", b"y")]),
            digest("0.tar", &[("b.jpg", b"x"), ("a.jpg", b"y")]),
            digest("0.tar", &[("a.jpg", b"x"), ("b.jpg", b"yy")]),
            digest("0.tar", &[("a.jpg", b"x"), ("b.png", b"y")]),
            digest("0.tar", &[("a.jpg", b"x")]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn real_data_opens() {
        let Some(data) = std::env::var_os("MAE_TEST_DATA").map(PathBuf::from) else {
            println!("skipped: MAE_TEST_DATA is not set");
            return;
        };
        let cache = tempfile::tempdir().unwrap();
        let options = DatasetOptions {
            cache_dir: Some(cache.path().to_path_buf()),
            ..Default::default()
        };
        let cifar = data.join("cifar10/train-*.tar.gz").display().to_string();
        let dataset = Dataset::open(&[&cifar], &options).unwrap();
        assert_eq!((dataset.shards().len(), dataset.len()), (10, 50_000));
        let mut counts = [0; 10];
        for id in dataset.ids() {
            counts[dataset.label(id).unwrap().unwrap() as usize] += 1;
        }
        assert_eq!(counts, [5000; 10]);
        assert_eq!(dataset.classes().unwrap()[9], "truck");
        let again = Dataset::open(&[&cifar], &options).unwrap();
        assert_eq!(again.digest(), dataset.digest());

        let folder = data.join("cifar10").display().to_string();
        let error = Dataset::open(&[&folder], &options).unwrap_err();
        assert!(matches!(error, Error::MixedPrefixes { .. }), "{error}");

        let photos = data.join("imagenet-sample").display().to_string();
        let labels = "json:wnid".parse().unwrap();
        let dataset = Dataset::open(&[&photos], &DatasetOptions { labels, ..options }).unwrap();
        assert_eq!(dataset.len(), 600);
        assert_eq!(dataset.classes().unwrap().len(), 600);
        let mut image = Vec::new();
        for (id, class) in dataset.ids().zip(0..) {
            dataset.read_image(id, &mut image).unwrap();
            assert!(image.starts_with(&[0xff, 0xd8]) && image.len() > 1000);
            let wnid = &dataset.classes().unwrap()[dataset.label(id).unwrap().unwrap() as usize];
            assert!(dataset.key(id).starts_with(wnid.as_str()), "sample {class}");
        }
    }
}

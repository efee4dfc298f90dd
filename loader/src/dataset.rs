//! An opened, indexed dataset: every sample's members by number, read by offset from any thread.
//!
//! It holds no order and no cursor: what comes when is the subject of [`Loader`](crate::Loader).

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use crate::classes::Labels;
use crate::error::{Error, Result};
use crate::label::LabelSource;
use crate::open::{self, Access, Indexes, OpenShard};
use crate::parallel;
use crate::sample::{Member, SampleId};
use crate::shard::{Prepared, ShardTable};
#[cfg(feature = "remote")]
use crate::source::Retries;
use crate::source::{Ahead, Encoding, Net};
use crate::spec;

/// A member larger than this is damage or an attack, not an image.
const MAX_MEMBER_BYTES: u64 = 1 << 30;

/// A label this close to its image is announced with it.
const NEAR: u64 = 64 << 10;

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
    /// Folder where shards lie whole that are compressed or come from servers that know no ranges; by default one in the system's temporary
    /// folder. Where it is given, shards of all servers are kept in it.
    pub cache_dir: Option<PathBuf>,
    /// Bound on the bytes in that folder.
    pub cache_bytes: u64,
    /// How often and how long servers are asked.
    #[cfg(feature = "remote")]
    pub retries: Retries,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self {
            image_suffixes: ["jpg", "jpeg", "png"].map(String::from).to_vec(),
            labels: LabelSource::default(),
            classes: None,
            cache_dir: None,
            cache_bytes: 32 << 30,
            #[cfg(feature = "remote")]
            retries: crate::source::RETRIES,
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
    /// How the images were made smaller when the shard was written, where the index says so.
    pub prepared: Option<Prepared>,
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
    cache_bytes: u64,
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
        #[cfg(feature = "remote")]
        let net = Net::new(options.retries);
        #[cfg(not(feature = "remote"))]
        let net = Net::default();
        let set = spec::resolve_on(specs, &net)?;
        let access = Access {
            cache_dir: options.cache_dir.clone(),
            cache_bytes: options.cache_bytes,
            net: net.clone(),
        };
        let opened = open::open_all(&set, access, Indexes::Use)?;
        let shards = parallel::try_map(&opened, 1, |_, open| {
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
            cache_bytes: options.cache_bytes,
        };
        dataset.labels = Labels::find(&dataset, &set, options, &net)?;
        Ok(dataset)
    }

    /// The shards in the order of the specs.
    pub fn shards(&self) -> &[ShardInfo] {
        &self.infos
    }

    /// Bytes that each shard has, or will have, in the cache.
    pub(crate) fn cached_bytes(&self) -> Vec<u64> {
        let bytes = |shard: &Shard| shard.open.source.cached_bytes();
        self.shards.iter().map(bytes).collect()
    }

    /// Bound on the bytes in the cache.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache_bytes
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

    /// Length of the longest image, in bytes as encoded.
    pub fn largest_image(&self) -> u64 {
        let images = |shard: &Shard| {
            let table = &shard.open.table;
            let sizes = shard
                .usable
                .iter()
                .map(|usable| table.member(usable.image).size);
            sizes.max().unwrap_or(0)
        };
        self.shards.iter().map(images).max().unwrap_or(0)
    }

    /// Announces that the samples' images and labels will be read soon: see [`Source::announce`](crate::source::Source). Each is then read
    /// through what stands in its place in the result.
    pub(crate) fn announce(&self, ids: &[SampleId], stop: &Arc<AtomicBool>) -> Vec<Ahead> {
        let mut wanted: Vec<(u32, Range<u64>, usize)> = ids
            .iter()
            .enumerate()
            .map(|(place, &id)| (id.shard, self.span(id), place))
            .collect();
        wanted.sort_unstable_by_key(|(shard, range, place)| (*shard, range.start, *place));
        let mut ahead = vec![Ahead::nothing(stop); ids.len()];
        for of_shard in wanted.chunk_by(|a, b| a.0 == b.0) {
            let ranges: Vec<Range<u64>> =
                of_shard.iter().map(|(_, range, _)| range.clone()).collect();
            let source = &self.shards[of_shard[0].0 as usize].open.source;
            let announced = source.announce(&ranges, stop);
            for ((_, _, place), of_sample) in of_shard.iter().zip(announced) {
                ahead[*place] = of_sample;
            }
        }
        ahead
    }

    /// The bytes that hold a sample's image, and its label where that stands near.
    fn span(&self, id: SampleId) -> Range<u64> {
        let image = self.image_member(id);
        let range = image.offset..image.offset + image.size;
        let suffix = self.labels.suffix();
        let label =
            suffix.and_then(|suffix| self.members(id).iter().find(|m| *m.suffix == *suffix));
        match label {
            Some(label) => {
                let whole = range.start.min(label.offset)..range.end.max(label.offset + label.size);
                if whole.end - whole.start <= image.size + label.size + NEAR {
                    whole
                } else {
                    range
                }
            }
            None => range,
        }
    }

    /// Replaces the content of `buffer` by the image's bytes.
    ///
    /// # Errors
    /// Where the shard cannot be read or has changed since it was opened.
    pub fn read_image(&self, id: SampleId, buffer: &mut Vec<u8>) -> Result<()> {
        self.read_member(id, self.image_member(id), buffer)
    }

    /// As [`read_image`](Self::read_image), out of what was announced where that has it.
    pub(crate) fn read_image_ahead(
        &self,
        id: SampleId,
        buffer: &mut Vec<u8>,
        ahead: &Ahead,
    ) -> Result<()> {
        self.read_ahead(id, self.image_member(id), buffer, ahead)
    }

    /// Replaces the content of `buffer` by the bytes of a member of the sample.
    ///
    /// # Errors
    /// As for [`read_image`](Self::read_image).
    pub fn read_member(&self, id: SampleId, member: &Member, buffer: &mut Vec<u8>) -> Result<()> {
        self.read_ahead(id, member, buffer, &Ahead::default())
    }

    pub(crate) fn read_ahead(
        &self,
        id: SampleId,
        member: &Member,
        buffer: &mut Vec<u8>,
        ahead: &Ahead,
    ) -> Result<()> {
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
        let length = member.size as usize;
        // Nothing is read into more than it needs: a worker's memory is a stated sum.
        buffer.reserve_exact(length.saturating_sub(buffer.len()));
        buffer.resize(length, 0);
        let source = &self.shards[id.shard as usize].open.source;
        source
            .read_ahead(buffer, member.offset, ahead)
            .map_err(|e| failed(format!("cannot read: {e}")))
    }

    /// The sample's class index; `Ok(None)` where the dataset has no labels at all.
    ///
    /// # Errors
    /// Where other samples have a label and this one has none, or one that cannot be understood.
    pub fn label(&self, id: SampleId) -> Result<Option<u32>> {
        self.label_ahead(id, &Ahead::default())
    }

    /// As [`label`](Self::label), out of what was announced where that has it.
    pub(crate) fn label_ahead(&self, id: SampleId, ahead: &Ahead) -> Result<Option<u32>> {
        self.labels.get(self, id, ahead)
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
            prepared: open.prepared,
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
mod tests;

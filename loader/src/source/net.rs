//! What is read from servers, as far as it is built in.

#[cfg(feature = "remote")]
use std::sync::Arc;

#[cfg(feature = "remote")]
use super::Encoding;
#[cfg(feature = "remote")]
use super::remote::{RETRIES, Remote, Retries};
use crate::error::{Error, Result};

/// The network as one dataset sees it. Costs nothing until it is used.
#[derive(Debug, Clone)]
pub(crate) struct Net {
    #[cfg(feature = "remote")]
    remote: Arc<Remote>,
}

/// A file on a server, opened.
#[cfg(feature = "remote")]
pub(crate) struct OpenedUrl {
    pub(crate) file: super::RemoteFile,
    pub(crate) ranges: bool,
    pub(crate) size: u64,
    pub(crate) encoding: Encoding,
}

#[cfg_attr(not(feature = "remote"), allow(clippy::derivable_impls))]
impl Default for Net {
    fn default() -> Self {
        Self {
            #[cfg(feature = "remote")]
            remote: Arc::new(Remote::new(RETRIES)),
        }
    }
}

#[cfg(feature = "remote")]
impl Net {
    pub(crate) fn new(retries: Retries) -> Self {
        Self {
            remote: Arc::new(Remote::new(retries)),
        }
    }

    pub(crate) fn open(&self, url: &str) -> Result<OpenedUrl> {
        let opened = self.remote.open(url)?;
        let encoding = Encoding::sniff(&opened.head).map_err(|kind| Error::Spec {
            spec: super::without_secrets(url),
            reason: format!("{kind} compression is not supported: store it with gzip or zstd"),
        })?;
        Ok(OpenedUrl {
            size: opened.file.size(),
            ranges: opened.ranges,
            file: opened.file,
            encoding,
        })
    }

    /// The whole of a small file; `None` where there is none.
    pub(crate) fn side_file(&self, url: &str) -> Result<Option<Vec<u8>>> {
        self.remote.side_file(url)
    }

    /// Names of the files in a folder.
    pub(crate) fn list(&self, url: &str) -> Result<Vec<String>> {
        self.remote.list(url)
    }
}

#[cfg(not(feature = "remote"))]
impl Net {
    pub(crate) fn open(&self, url: &str) -> Result<std::convert::Infallible> {
        Err(not_built_in(url))
    }

    pub(crate) fn side_file(&self, url: &str) -> Result<Option<Vec<u8>>> {
        Err(not_built_in(url))
    }

    pub(crate) fn list(&self, url: &str) -> Result<Vec<String>> {
        Err(not_built_in(url))
    }
}

#[cfg(not(feature = "remote"))]
fn not_built_in(url: &str) -> Error {
    Error::Spec {
        spec: super::without_secrets(url),
        reason: "this program is built without the feature `remote`; build it with, or use `pipe:curl -sL URL`".into(),
    }
}

//! From a URL to the store that holds it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

const CONNECT: Duration = Duration::from_secs(10);

/// A file in a store.
#[derive(Debug, Clone)]
pub(super) struct Location {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) is_http: bool,
}

impl Location {
    /// The file that `url` names. Stores, which hold the connections, are shared through `stores`.
    pub(super) fn of(
        url: &str,
        stores: &mut HashMap<String, Arc<dyn ObjectStore>>,
        stall: Duration,
    ) -> Result<Self, String> {
        let parsed = Url::parse(url).map_err(|e| format!("not a URL: {e}"))?;
        let is_http = matches!(parsed.scheme(), "http" | "https");
        let (key, path) = if is_http {
            split_http(&parsed)
        } else {
            let bucket = parsed.host_str().unwrap_or_default();
            if bucket.is_empty() {
                return Err(format!("write {}://BUCKET/PATH", parsed.scheme()));
            }
            (
                format!("{}://{bucket}", parsed.scheme()),
                parsed.path().to_owned(),
            )
        };
        let path = Path::from_url_path(path.trim_start_matches('/')).map_err(|e| e.to_string())?;
        let store = match stores.get(&key) {
            Some(store) => Arc::clone(store),
            None => {
                let store = build(&key, &parsed, stall).map_err(|e| super::describe(&e))?;
                stores.insert(key, Arc::clone(&store));
                store
            }
        };
        Ok(Self {
            store,
            path,
            is_http,
        })
    }
}

/// The folder's URL with the query, which may be a signature, and the file's name in it.
fn split_http(url: &Url) -> (String, String) {
    let mut folder = url.clone();
    folder.set_fragment(None);
    let (parent, name) = url.path().rsplit_once('/').unwrap_or(("", url.path()));
    let (parent, name) = (parent.to_owned(), name.to_owned());
    folder.set_path(&parent);
    (folder.to_string(), name)
}

fn build(
    key: &str,
    url: &Url,
    stall: Duration,
) -> std::result::Result<Arc<dyn ObjectStore>, object_store::Error> {
    // Tries are counted in one place, ours; and a whole shard may take as long as it keeps coming.
    let once = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    let client = ClientOptions::new()
        .with_connect_timeout(CONNECT)
        .with_timeout_disabled()
        .with_read_timeout(stall);
    let bucket = url.host_str().unwrap_or_default();
    let plain_http = |names: &[&str]| {
        names
            .iter()
            .any(|name| std::env::var(name).is_ok_and(|value| value.starts_with("http://")))
    };
    Ok(match url.scheme() {
        "s3" => Arc::new(
            AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                .with_client_options(client.with_allow_http(plain_http(&[
                    "AWS_ENDPOINT_URL",
                    "AWS_ENDPOINT_URL_S3",
                    "AWS_ENDPOINT",
                ])))
                .with_retry(once)
                .build()?,
        ),
        "gs" | "gcs" => Arc::new(
            GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(bucket)
                .with_client_options(client)
                .with_retry(once)
                .build()?,
        ),
        "az" | "azure" => Arc::new(
            MicrosoftAzureBuilder::from_env()
                .with_container_name(bucket)
                .with_client_options(
                    client
                        .with_allow_http(plain_http(&["AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT"])),
                )
                .with_retry(once)
                .build()?,
        ),
        _ => Arc::new(
            HttpBuilder::new()
                .with_url(key)
                .with_client_options(client.with_allow_http(true))
                .with_retry(once)
                .build()?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_store_and_a_path() {
        let mut stores = HashMap::new();
        let mut of = |url: &str| {
            let location = Location::of(url, &mut stores, CONNECT).unwrap();
            (location.path.to_string(), stores.len())
        };
        assert_eq!(of("http://host:81/a/b/x-0.tar"), ("x-0.tar".into(), 1));
        assert_eq!(of("http://host:81/a/b/x-1.tar"), ("x-1.tar".into(), 1));
        assert_eq!(of("http://host:81/a/c/x-0.tar").1, 2);
        assert_eq!(of("http://host:81/x.tar?key=1"), ("x.tar".into(), 3));
        assert!(Location::of("s3:///x.tar", &mut stores, CONNECT).is_err());
    }
}

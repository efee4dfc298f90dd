//! URLs as text: which are read, and how they are shown.

/// The schemes that are read, with the names that others use for them.
const SCHEMES: [&str; 7] = ["http", "https", "s3", "gs", "gcs", "az", "azure"];

/// Whether `name` is a URL that is read from the network.
pub(crate) fn is_url(name: &str) -> bool {
    name.split_once("://")
        .is_some_and(|(scheme, _)| SCHEMES.contains(&scheme))
}

/// `text` without passwords and signatures: what stands before the `@` of a URL's host, and after its `?`.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        kept.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | ')' | '`' | '\''))
            .unwrap_or(after.len());
        let (url, tail) = after.split_at(end);
        let host_end = url.find('/').unwrap_or(url.len());
        let url = match url[..host_end].rfind('@') {
            Some(at) => &url[at + 1..],
            None => url,
        };
        kept.push_str(url.split('?').next().unwrap_or(url));
        rest = tail;
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_schemes_are_urls() {
        assert!(is_url("s3://b/x") && !is_url("ftp://h/x") && !is_url("a/b"));
    }

    #[test]
    fn secrets_are_not_shown() {
        for (text, shown) in [
            ("https://me:pw@host/a.tar?sig=x", "https://host/a.tar"),
            (
                "error for url (http://h/a?b) twice http://u@h/c",
                "error for url (http://h/a) twice http://h/c",
            ),
            ("no url", "no url"),
            ("https://host/at@sign.tar", "https://host/at@sign.tar"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }
}

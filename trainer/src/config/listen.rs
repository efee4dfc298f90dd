//! Where a run is listened to.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::values::from_scalar;

/// An address to listen at: `0.0.0.0:9400`, `[::1]:9400`, or a port of this machine alone, `9400`. Port 0 is any free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.parse::<u16>() {
            return Ok(Self((Ipv4Addr::LOCALHOST, port).into()));
        }
        text.parse().map(Self).map_err(|_| {
            format!(
                "`{text}` is no address to listen at: write ADDRESS:PORT with numbers (0.0.0.0:9400 for every network), or a port (9400) \
                 that this machine alone reaches"
            )
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_read() {
        for (text, shown) in [
            ("9400", "127.0.0.1:9400"),
            ("0", "127.0.0.1:0"),
            ("0.0.0.0:9400", "0.0.0.0:9400"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), shown);
        }
        for text in ["", "65536", ":9400", "localhost:9400", "1.2.3.4", "-1"] {
            let said = text.parse::<ListenAddress>().unwrap_err();
            assert!(said.contains("9400"), "{said}");
        }
    }
}

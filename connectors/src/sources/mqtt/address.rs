//! Where a broker is.

use rustls::pki_types::ServerName;

use crate::error::ConfigError;

/// What a URL says: `mqtt://host:port`, or `mqtts://` for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Address, ConfigError> {
        let wrong = |why: &str| {
            ConfigError::new(format!("url {why}"))
                .with_hint("Write it like \"mqtt://127.0.0.1:1883\", or \"mqtts://broker.example:8883\" for TLS.")
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(wrong(&format!("\"{url}\" is none of a broker")));
        };
        let (tls, port) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err(wrong(&format!("has the scheme \"{scheme}\", which is not known"))),
        };
        if rest.contains('@') {
            // What stands there is not repeated: it may be a password.
            return Err(wrong("holds a user").with_hint("Declare `username` and `password` beside it."));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, text)) if !text.contains(']') => {
                let port = text.parse().ok().filter(|port| *port > 0);
                (
                    host,
                    port.ok_or_else(|| wrong(&format!("\"{url}\" has no port at its end")))?,
                )
            }
            _ => (rest, port),
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() || host.contains(['/', '?', '[', ']']) {
            return Err(wrong(&format!("\"{url}\" names no host")));
        }
        let address = Address {
            host: host.to_owned(),
            port,
            tls,
        };
        if tls {
            address.server_name()?;
        }
        Ok(address)
    }

    /// The name that the broker's certificate has to have.
    pub(crate) fn server_name(&self) -> Result<ServerName<'static>, ConfigError> {
        ServerName::try_from(self.host.clone())
            .map_err(|_| ConfigError::new(format!("\"{}\" is not the name of a host", self.host)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_brokers() {
        let parsed = |url| Address::parse(url).map(|address| (address.host, address.port, address.tls));
        let host = |text: &str| text.to_owned();
        assert_eq!(parsed("mqtt://127.0.0.1:1884"), Ok((host("127.0.0.1"), 1884, false)));
        assert_eq!(
            parsed("mqtts://broker.example/"),
            Ok((host("broker.example"), 8883, true))
        );
        assert_eq!(parsed("mqtt://[::1]:1885"), Ok((host("::1"), 1885, false)));
        assert_eq!(parsed("mqtt://[::1]"), Ok((host("::1"), 1883, false)));
        for (url, why) in [
            ("127.0.0.1:1883", "is none of a broker"),
            ("tcp://a", "has the scheme \"tcp\""),
            ("mqtt://u:secret@a", "url holds a user"),
            ("mqtt://a:b", "has no port"),
            ("mqtt://a:0", "has no port"),
            ("mqtt://:1", "names no host"),
            ("mqtt://a/b", "names no host"),
        ] {
            let error = parsed(url).unwrap_err();
            assert!(
                error.what.contains(why) && !error.what.contains("secret"),
                "{url}: {error}"
            );
        }
    }
}

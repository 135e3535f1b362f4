//! Where the server is, as its callers say it.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// The server's own default.
const PORT: u16 = 7460;

/// Where the server is: `http://HOST:PORT`, or with TLS `https://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    tls: bool,
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// A name, or an IPv4 address.
    Name(String),
    Ipv6(Ipv6Addr),
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl ServerAddress {
    /// Whether TLS is spoken there.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// `HOST:PORT`, as names are looked up by.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether what is said there stays on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Name(name) => {
                name == "localhost" || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
            }
            Host::Ipv6(address) => address.is_loopback(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ipv6(address) => write!(f, "[{address}]"),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        // What stands before an @ may be a password, and is not said again.
        let (shown, user) = match text.rsplit_once('@') {
            Some((_, place)) => (place, true),
            None => (text, false),
        };
        read(text, user).map_err(|why| format!("\"{}\" is no server address: {why}", shown.escape_debug()))
    }
}

fn read(text: &str, user: bool) -> Result<ServerAddress, String> {
    if text.is_empty() {
        return Err("write http://HOST:PORT".to_owned());
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it has spaces; write http://HOST:PORT".to_owned());
    }
    if text.contains(',') {
        return Err("it names several servers; write one, or a name that leads to all of them".to_owned());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let remedy = authority(text.trim_end_matches('/'), PORT).map(|address| address.to_string());
        return Err(format!("it says no scheme; write {}", remedy.as_deref().unwrap_or("http://HOST:PORT")));
    };
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        other => return Err(format!("{other}:// is not spoken here; write http://HOST:PORT or https://HOST:PORT")),
    };
    if user {
        return Err("it has a user name, and the server asks for none; write http://HOST:PORT".to_owned());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (place, path) = rest.split_at(end);
    let address = ServerAddress { tls, ..authority(place, 0)? };
    if address.port == 0 {
        return Err(format!("it says no port; write {}", ServerAddress { port: PORT, ..address }));
    }
    if !matches!(path, "" | "/") {
        return Err(format!("it has more than a host and a port; write {address}"));
    }
    Ok(address)
}

/// Reads `HOST:PORT`; where there is no port, it is `default`.
fn authority(text: &str, default: u16) -> Result<ServerAddress, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("an IPv6 address ends with ]; write http://[::1]:7460")?;
            let address =
                address.parse().map_err(|_| format!("{address} is no IPv6 address; write http://[::1]:7460"))?;
            (Host::Ipv6(address), port)
        }
        None if text.matches(':').count() > 1 => {
            return Err("an IPv6 address stands in brackets; write http://[::1]:7460".to_owned());
        }
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (Host::Name(host_name(name)?), port)
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default,
        Some(digits) if digits.chars().all(|c| c.is_ascii_digit()) => {
            let number = digits.parse().ok().filter(|number| *number > 0);
            number.ok_or_else(|| format!("\"{digits}\" is no port; write 1 to 65535, usually {PORT}"))?
        }
        _ => return Err(format!("\"{port}\" is no port; write http://{host}:{PORT}")),
    };
    Ok(ServerAddress { tls: false, host, port })
}

fn host_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    if text.is_empty() || !text.chars().all(plain) || text.starts_with(['-', '.']) {
        return Err(format!("\"{text}\" is no host; write http://HOST:PORT"));
    }
    // The last label of a name is never a number.
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    if last.chars().all(|c| c.is_ascii_digit()) && text.parse::<Ipv4Addr>().is_err() {
        return Err(format!("{text} is no IPv4 address; write http://10.0.0.1:{PORT}"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, expected) in [
            ("http://127.0.0.1:7460", "http://127.0.0.1:7460"),
            (" http://db_1.example:80/ ", "http://db_1.example:80"),
            ("HTTP://here:1", "http://here:1"),
            ("https://here:7462/", "https://here:7462"),
            ("http://[2001:DB8::1]:7460", "http://[2001:db8::1]:7460"),
        ] {
            assert_eq!(text.parse::<ServerAddress>().map(|address| address.to_string()).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn refusals_say_what_to_write() {
        for (text, remedy) in [
            ("", "write http://HOST:PORT"),
            ("here", "write http://here:7460"),
            ("here:99", "write http://here:99"),
            ("10.0.0.5:7460/", "write http://10.0.0.5:7460"),
            ("[::1]:99", "write http://[::1]:99"),
            ("http://here", "it says no port; write http://here:7460"),
            ("http://[::1]", "it says no port; write http://[::1]:7460"),
            ("http://here:7460/api", "write http://here:7460"),
            ("http://here:7460?x=1", "write http://here:7460"),
            ("http://::1:7460", "stands in brackets"),
            ("http://[::g]:7460", "is no IPv6 address"),
            ("http://[::1", "ends with ]"),
            ("http://10.0.0.256:7460", "is no IPv4 address"),
            ("http://:7460", "is no host"),
            ("http://a..b:0", "is no port"),
            ("http://here:", "is no port"),
            ("http://here:99999", "is no port"),
            ("http://here:abc", "write http://here:7460"),
            ("http:here:1", "write http://HOST:PORT"),
            ("http://a b:1", "it has spaces"),
            ("http://a:1,http://b:1", "several servers"),
            ("HTTPS://here", "it says no port; write https://here:7460"),
            ("ftp://here:1", "ftp:// is not spoken here"),
        ] {
            let fault = text.parse::<ServerAddress>().expect_err(text);
            assert!(fault.contains(remedy), "{text}: {fault}");
        }
    }

    #[test]
    fn a_password_is_not_said_again() {
        let fault = "http://ann:secret@here:7460".parse::<ServerAddress>().expect_err("a user name");
        assert!(fault.contains("asks for none") && !fault.contains("secret"), "{fault}");
    }
}

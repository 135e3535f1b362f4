//! Where a program listens.

use std::net::SocketAddr;

/// Reads `ADDRESS:PORT`; names are not looked up.
///
/// # Errors
/// The fault, with a remedy.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    text.parse().map_err(|error| {
        let port = text.rsplit(':').next().unwrap_or_default().parse::<u16>().unwrap_or(7460);
        format!(
            "\"{text}\" is no address to listen on ({error}); write 127.0.0.1:{port} for this machine, 0.0.0.0:{port} or \
             [::]:{port} for all that reach it"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_numbers() {
        for good in ["127.0.0.1:0", "[::1]:7460", " 0.0.0.0:80 "] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in ["", "7460", ":7460", "*:7460", "localhost:7460", "127.0.0.1", "::1:7460", "http://127.0.0.1:1"] {
            assert!(address(bad).is_err_and(|error| error.contains("write 127.0.0.1:")), "{bad}");
        }
        assert!(address(":9100").is_err_and(|error| error.contains("0.0.0.0:9100")));
    }
}

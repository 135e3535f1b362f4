//! Pages of lists: size and an opaque token that says where the last page ended.

use sha2::{Digest, Sha256};
use sockpilot_policy::fault::Collector;

/// Size of a page if nobody says it.
pub const PAGE_SIZE_DEFAULT: u32 = 50;
/// Greatest size of a page.
pub const PAGE_SIZE_MAX: u32 = 200;

const TOKEN_CHARS_MAX: usize = 1_024;
const FINGERPRINT_BYTES: usize = 8;

/// Which part of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most so many.
    pub size: u32,
    /// Begin after this key.
    pub after: Option<String>,
    fingerprint: [u8; FINGERPRINT_BYTES],
}

impl Page {
    /// Reads and checks page size and token. `query` names the list and its filters: a token holds for the query it was
    /// made for only. `key_is_sound` tells whether a key can be one of this list.
    pub fn read(
        size: u32,
        token: &str,
        query: &[&str],
        key_is_sound: fn(&str) -> bool,
        faults: &mut Collector,
    ) -> Self {
        if size > PAGE_SIZE_MAX {
            faults
                .add_at("page_size", format!("is {size}; write at most {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}"));
        }
        let size = if size == 0 { PAGE_SIZE_DEFAULT } else { size };
        let fingerprint = fingerprint(query);
        let after = match decode(token, fingerprint) {
            Ok(after) if after.as_deref().is_none_or(key_is_sound) => after,
            Ok(_) | Err(()) => {
                faults.add_at(
                    "page_token",
                    "is not one that this list gave; send the next_page_token of the same request, or none to begin anew",
                );
                None
            }
        };
        Self { size, after, fingerprint }
    }

    /// How many rows to read: one more than wanted, to know whether there is a next page.
    #[must_use]
    pub fn limit(&self) -> i64 {
        i64::from(self.size) + 1
    }

    /// Cuts what was read with [`Self::limit`] to the page, and makes the token for the next one.
    #[must_use]
    pub fn finish<T>(&self, rows: Vec<T>, key: impl FnOnce(&T) -> String) -> (Vec<T>, String) {
        self.finish_short(rows, false, key)
    }

    /// As [`Self::finish`], of rows that may be fewer than were asked for although there are more.
    #[must_use]
    pub fn finish_short<T>(&self, mut rows: Vec<T>, more: bool, key: impl FnOnce(&T) -> String) -> (Vec<T>, String) {
        let size = self.size as usize;
        if rows.len() <= size && !more {
            return (rows, String::new());
        }
        rows.truncate(size);
        let token = rows.last().map(|row| encode(&key(row), self.fingerprint)).unwrap_or_default();
        (rows, token)
    }
}

fn fingerprint(query: &[&str]) -> [u8; FINGERPRINT_BYTES] {
    let mut hash = Sha256::new();
    for part in query {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut short = [0; FINGERPRINT_BYTES];
    short.copy_from_slice(&hash.finalize()[..FINGERPRINT_BYTES]);
    short
}

fn encode(key: &str, fingerprint: [u8; FINGERPRINT_BYTES]) -> String {
    fingerprint.iter().chain(key.as_bytes()).map(|byte| format!("{byte:02x}")).collect()
}

fn decode(token: &str, fingerprint: [u8; FINGERPRINT_BYTES]) -> Result<Option<String>, ()> {
    if token.is_empty() {
        return Ok(None);
    }
    if token.len() > TOKEN_CHARS_MAX || !token.len().is_multiple_of(2) || !token.is_ascii() {
        return Err(());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(());
    let bytes = token.as_bytes().chunks(2).map(|pair| Ok((digit(pair[0])? << 4 | digit(pair[1])?) as u8));
    let bytes = bytes.collect::<Result<Vec<u8>, ()>>()?;
    let key = bytes.strip_prefix(&fingerprint[..]).ok_or(())?;
    String::from_utf8(key.to_vec()).map(Some).map_err(drop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(size: u32, token: &str, query: &[&str]) -> Result<Page, Vec<String>> {
        let mut faults = Collector::at("");
        let page = Page::read(size, token, query, |_| true, &mut faults);
        faults.finish(page).map_err(|faults| faults.as_slice().iter().map(|fault| fault.field.clone()).collect())
    }

    #[test]
    fn reports_size_and_token_at_once() {
        assert_eq!(read(201, "zz", &["nodes"]), Err(vec!["page_size".to_owned(), "page_token".to_owned()]));
        assert_eq!(read(0, "", &["nodes"]).map(|page| page.size), Ok(50));
    }

    #[test]
    fn the_last_page_has_no_token() {
        let page = read(2, "", &["nodes"]).expect("sound");
        assert_eq!(page.finish(vec!["a", "b"], ToString::to_string), (vec!["a", "b"], String::new()));
    }

    proptest! {
        #[test]
        fn a_token_leads_on_from_the_last_key(keys in prop::collection::vec("[ -~]{1,40}", 3..9), size in 1_u32..3) {
            let page = read(size, "", &["nodes", "zone=a"]).expect("sound");
            let (rows, token) = page.finish(keys, String::clone);
            prop_assert_eq!(rows.len(), size as usize);
            let next = read(size, &token, &["nodes", "zone=a"]).expect("its own token");
            prop_assert_eq!(next.after.as_ref(), rows.last());
            prop_assert!(read(size, &token, &["nodes", "zone=b"]).is_err(), "another filter");
            prop_assert!(read(size, &token, &["nodeszone=a", ""]).is_err(), "another split");
        }

        #[test]
        fn no_token_is_a_panic(token in "\\PC{0,40}|[0-9a-f]{0,40}") {
            let _ = read(1, &token, &["nodes"]);
        }
    }
}

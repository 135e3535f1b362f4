//! Which node is meant.

use sockpilot_policy::validate;

/// The full name of a node that is given by id or full name.
///
/// # Errors
/// The fault, with a remedy.
pub fn name(text: &str) -> Result<String, String> {
    let id = validate::node_id(text.strip_prefix("nodes/").unwrap_or(text))?;
    Ok(format!("nodes/{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_go_by_id_or_name() {
        assert_eq!(name("a").as_deref(), Ok("nodes/a"));
        assert_eq!(name("nodes/a").as_deref(), Ok("nodes/a"));
        for bad in ["", "nodes/", "policies/a", "Web_1"] {
            assert!(name(bad).is_err_and(|error| error.contains("is no node id")), "{bad}");
        }
    }
}

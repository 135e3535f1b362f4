//! Who may do what.

use crate::format::{self, NONE};
use crate::table::{Table, one_line};
use sockpilot_proto::v1::{self, token::Grant};
use std::collections::HashMap;

fn role(role: v1::Role) -> String {
    role.as_str_name().trim_start_matches("ROLE_").to_ascii_lowercase()
}

fn labels(labels: &HashMap<String, String>) -> String {
    let mut pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    if pairs.is_empty() { NONE.to_owned() } else { one_line(&pairs.join(",")) }
}

fn bound(bound: Option<&v1::Bound>) -> String {
    let Some(v1::Bound { name_prefix, node_labels }) = bound else { return NONE.to_owned() };
    let names = (!name_prefix.is_empty()).then(|| format!("names {name_prefix}*"));
    let nodes = (!node_labels.is_empty()).then(|| format!("nodes {}", labels(node_labels)));
    one_line(&names.into_iter().chain(nodes).collect::<Vec<_>>().join(", "))
}

/// Who the server takes one for.
pub fn caller(caller: &v1::Caller) -> String {
    if caller.actor.is_empty() {
        return "nobody asks: this server speaks no TLS, and everyone may do everything\n".to_owned();
    }
    let mut table = Table::new(&["WHO", "ROLE", "ONLY"]);
    table.row(vec![one_line(&caller.actor), role(caller.role()), bound(caller.bound.as_ref())]);
    table.render()
}

/// What people may do.
pub fn people(people: &[v1::Person]) -> String {
    let mut table = Table::new(&["NAME", "ROLE", "ONLY"]);
    for person in people {
        table.row(vec![one_line(&person.name), role(person.role()), bound(person.bound.as_ref())]);
    }
    table.render()
}

/// Tokens, without what they are.
pub fn tokens(tokens: &[v1::Token]) -> String {
    let mut table = Table::new(&["NAME", "OF", "MAY", "ONLY", "MADE BY", "MADE", "UNTIL", "USED BY"]);
    for token in tokens {
        let (of, may, only) = match &token.grant {
            Some(Grant::Person(person)) => (person.name.clone(), role(person.role()), bound(person.bound.as_ref())),
            Some(Grant::Join(join)) if join.node.is_empty() => {
                ("any new node".to_owned(), "join".to_owned(), labels(&join.labels))
            }
            Some(Grant::Join(join)) => (join.node.clone(), "join".to_owned(), labels(&join.labels)),
            None => (NONE.to_owned(), NONE.to_owned(), NONE.to_owned()),
        };
        table.row(vec![
            one_line(&token.name),
            one_line(&of),
            may,
            only,
            one_line(&token.creator),
            format::time(token.create_time.as_ref()),
            format::time(token.expire_time.as_ref()),
            if token.used_by.is_empty() { NONE.to_owned() } else { one_line(&token.used_by) },
        ]);
    }
    table.render()
}

/// Who was shut out.
pub fn revocations(revocations: &[v1::Revocation]) -> String {
    let mut table = Table::new(&["NAME", "SHUT OUT", "SINCE", "REASON"]);
    for one in revocations {
        let now = if one.shut_out { "yes" } else { "what is older" };
        table.row(vec![
            one_line(&one.name),
            now.to_owned(),
            format::time(one.revoke_time.as_ref()),
            one_line(&one.reason),
        ]);
    }
    table.render()
}

/// Labels that are pinned.
pub fn pinned(pinned: &v1::PinnedLabels) -> String {
    format!("{}: {}\n", one_line(&pinned.node), labels(&pinned.labels))
}

//! What is answered about who may do what.

use sockpilot_identity::name::Role;
use sockpilot_proto::v1::{self, token::Grant};

use crate::{
    auth::caller::Bound,
    clock::timestamp,
    store::access::{Revocation, TokenRow},
};

pub fn role_to_proto(role: Role) -> v1::Role {
    match role {
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Admin => v1::Role::Admin,
    }
}

pub fn bound_to_proto(bound: &Bound) -> Option<v1::Bound> {
    let Bound { name_prefix, node_labels } = bound.clone();
    (!bound.is_none()).then(|| v1::Bound { name_prefix, node_labels: node_labels.into_iter().collect() })
}

pub fn person_to_proto(name: &str, role: Role, bound: &Bound) -> v1::Person {
    v1::Person { name: format!("people/{name}"), role: role_to_proto(role).into(), bound: bound_to_proto(bound) }
}

pub fn token_to_proto(row: TokenRow) -> v1::Token {
    let TokenRow { token_id, role, holder, bound, labels, creator, created_at, expires_at, used_at, used_by } = row;
    let role = role.map(|text| text.parse::<Role>().map_or(v1::Role::Unspecified, role_to_proto));
    let grant = match role {
        Some(role) => Grant::Person(v1::PersonGrant { name: holder, role: role.into(), bound: bound_to_proto(&bound) }),
        None => {
            let node = if holder.is_empty() { holder } else { format!("nodes/{holder}") };
            Grant::Join(v1::JoinGrant { node, labels: labels.into_iter().collect() })
        }
    };
    v1::Token {
        name: format!("tokens/{token_id}"),
        grant: Some(grant),
        create_time: Some(timestamp(created_at)),
        expire_time: Some(timestamp(expires_at)),
        creator,
        use_time: used_at.map(timestamp),
        used_by: used_by.map(|node| format!("nodes/{node}")).unwrap_or_default(),
    }
}

pub fn revocation_to_proto(row: Revocation) -> v1::Revocation {
    let Revocation { name, revoked_at, shut_out, reason } = row;
    v1::Revocation { name, revoke_time: Some(timestamp(revoked_at)), shut_out, reason }
}

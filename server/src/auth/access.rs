//! Who may call which method: read from the descriptors, where each method says it.

use std::{collections::HashMap, sync::LazyLock};

use prost_reflect::{DescriptorPool, MethodDescriptor, Value};
use sockpilot_identity::name::Role;
use sockpilot_proto::v1::Access;

use super::caller::Caller;

const OPTION: &str = "sockpilot.v1.access";

/// Services of others that say nothing of access.
const ELSEWHERE: [(&str, Access); 3] = [
    ("/grpc.health.v1.Health/", Access::Anyone),
    ("/grpc.reflection.v1.ServerReflection/", Access::Viewer),
    ("/grpc.reflection.v1alpha.ServerReflection/", Access::Viewer),
];

static METHODS: LazyLock<HashMap<String, Access>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(sockpilot_proto::FILE_DESCRIPTOR_SET).unwrap_or_default();
    methods(&pool).into_iter().collect()
});

fn methods(pool: &DescriptorPool) -> Vec<(String, Access)> {
    let all = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let of = |method: MethodDescriptor| {
        (format!("/{}/{}", method.parent_service().full_name(), method.name()), said(pool, &method))
    };
    all.map(of).collect()
}

/// What a method says; unspecified if it says nothing.
fn said(pool: &DescriptorPool, method: &MethodDescriptor) -> Access {
    let Some(option) = pool.get_extension_by_name(OPTION) else { return Access::Unspecified };
    match &*method.options().get_extension(&option) {
        Value::EnumNumber(number) => Access::try_from(*number).unwrap_or(Access::Unspecified),
        _ => Access::Unspecified,
    }
}

/// Every method that people and nodes can call, and who may.
#[must_use]
pub fn all() -> Vec<(String, Access)> {
    let mut all: Vec<_> = METHODS.iter().map(|(path, access)| (path.clone(), *access)).collect();
    all.sort();
    all
}

/// Who may call a method, by its path. One that is not known is for nobody.
#[must_use]
pub fn of(path: &str) -> Access {
    let elsewhere = || ELSEWHERE.iter().find(|(service, _)| path.starts_with(service)).map(|(_, access)| *access);
    METHODS.get(path).copied().or_else(elsewhere).unwrap_or(Access::Unspecified)
}

/// A method by its path, as one of a bounded number of names: of services of others the service, and `other` for what is none.
#[must_use]
pub fn method(path: &str) -> &'static str {
    let elsewhere = || ELSEWHERE.iter().find(|(service, _)| path.starts_with(service)).map(|(service, _)| *service);
    let known = METHODS.get_key_value(path).map(|(path, _)| path.as_str()).or_else(elsewhere);
    known.map_or("other", |path| path.trim_matches('/'))
}

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It is not known who they are.
    Unknown,
    /// It is.
    Forbidden,
}

/// Whether a caller may.
///
/// # Errors
/// Why not.
pub fn check(access: Access, caller: &Caller) -> Result<(), Denied> {
    let (role, bound) = match caller {
        Caller::Anyone => return Ok(()),
        Caller::Nobody if access == Access::Anyone => return Ok(()),
        Caller::Nobody => return Err(Denied::Unknown),
        Caller::Node(_) if matches!(access, Access::Anyone | Access::Node) => return Ok(()),
        Caller::Node(_) => return Err(Denied::Forbidden),
        Caller::Person(person) => (person.role, caller.bound().is_some()),
    };
    let may = match access {
        Access::Unspecified | Access::Node => false,
        Access::Anyone | Access::Viewer => true,
        Access::BoundOperator => role >= Role::Operator,
        Access::Operator => role >= Role::Operator && !bound,
        Access::Admin => role >= Role::Admin,
    };
    if may { Ok(()) } else { Err(Denied::Forbidden) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::caller::{Bound, Node, Person, Proof};

    #[test]
    fn every_method_says_who_may_call_it() {
        let all = all();
        assert!(all.len() > 40, "{} methods", all.len());
        let silent: Vec<_> = all.iter().filter(|(_, access)| *access == Access::Unspecified).collect();
        assert!(silent.is_empty(), "say `option (access) = ACCESS_…` for {silent:?}");
    }

    #[test]
    fn who_may_what() {
        let person =
            |role, bound| Caller::Person(Person { actor: "ann".to_owned(), proof: Proof::Certificate, role, bound });
        let bound = Bound { name_prefix: "web-".to_owned(), ..Bound::default() };
        let callers = [
            Caller::Nobody,
            Caller::Node(Node { id: "n".to_owned(), labels: [].into() }),
            person(Role::Viewer, Bound::default()),
            person(Role::Operator, bound.clone()),
            person(Role::Operator, Bound::default()),
            // What an admin may is not bound.
            person(Role::Admin, bound),
        ];
        for (access, expected) in [
            (Access::Unspecified, "------"),
            (Access::Anyone, "++++++"),
            (Access::Node, "-+----"),
            (Access::Viewer, "--++++"),
            (Access::BoundOperator, "---+++"),
            (Access::Operator, "----++"),
            (Access::Admin, "-----+"),
        ] {
            let found: String =
                callers.iter().map(|caller| if check(access, caller).is_ok() { '+' } else { '-' }).collect();
            assert_eq!(found, expected, "{access:?}");
        }
        assert_eq!(check(Access::Viewer, &callers[0]), Err(Denied::Unknown));
        assert_eq!(check(Access::Viewer, &callers[1]), Err(Denied::Forbidden));
        assert_eq!(of("/sockpilot.v1.No/Such"), Access::Unspecified);
    }
}

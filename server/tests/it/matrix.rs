//! Every method × everybody: exactly those who may are answered.

use std::time::{Duration, SystemTime};

use sockpilot_identity::{authority::Validity, tls::Own};
use sockpilot_proto::v1::{self, Access, create_token_request::Grant};
use sockpilot_server::auth::access;
use tonic::transport::Channel;

use crate::secured::{Pki, Secured, answered, ask};

/// Who is answered, by what a method says: nobody known, a node, viewer, bound operator, operator, admin.
fn expected(access: Access) -> &'static str {
    match access {
        Access::Unspecified => "------",
        Access::Anyone => "++++++",
        Access::Node => "-+----",
        Access::Viewer => "--++++",
        Access::BoundOperator => "---+++",
        Access::Operator => "----++",
        Access::Admin => "-----+",
    }
}

/// Services that nodes call.
fn is_for_nodes(path: &str) -> bool {
    path.starts_with("/sockpilot.v1.NodeService/") || path.starts_with("/sockpilot.v1.JoinService/")
}

async fn let_in(channel: &Channel, path: &str, token: Option<&str>) -> bool {
    let code = match path {
        // As of the node itself: as of another it is refused, whatever else.
        "/sockpilot.v1.NodeService/ReportFlows" => {
            let report = v1::FlowReport { node_id: "n".to_owned(), ..v1::FlowReport::default() };
            ask(channel.clone(), path, report, token).await
        }
        _ => ask(channel.clone(), path, (), token).await,
    };
    answered(code)
}

async fn grant(world: &Secured, name: &str, role: v1::Role, bound: Option<v1::Bound>) -> String {
    let person = v1::PersonGrant { name: name.to_owned(), role: role.into(), bound };
    world.token(Grant::Person(person)).await.0
}

#[tokio::test]
async fn exactly_those_who_may_are_answered() {
    let world = Secured::new().await;
    let bound = Some(v1::Bound { name_prefix: "web-".to_owned(), ..v1::Bound::default() });
    let person = v1::Person { name: "people/bo".to_owned(), role: v1::Role::Operator.into(), bound: bound.clone() };
    let request = v1::UpdatePersonRequest { person: Some(person), reason: String::new() };
    world.admin().update_person(request).await.expect("said");
    let names = [
        None,
        Some("node/n"),
        Some("person/vi/role/viewer"),
        Some("person/bo"),
        Some("person/op/role/operator"),
        Some("person/ad/role/admin"),
    ];
    let tokens = [
        grant(&world, "vi", v1::Role::Viewer, None).await,
        grant(&world, "bo", v1::Role::Operator, bound).await,
        grant(&world, "op", v1::Role::Operator, None).await,
        grant(&world, "ad", v1::Role::Admin, None).await,
    ];
    let methods = access::all();
    let mut cells = 0;
    for (door, nodes) in [(world.server.address(), false), (world.server.node_address(), true)] {
        let by_certificate = names.map(|name| world.pki.channel(door, name.map(|name| world.pki.own(name)).as_ref()));
        let nobody = by_certificate[0].clone();
        for (path, access) in &methods {
            let open = |column: char| column == '+' && is_for_nodes(path) == nodes;
            for (column, channel) in expected(*access).chars().zip(&by_certificate) {
                assert_eq!(
                    let_in(channel, path, None).await,
                    open(column),
                    "{path} {access:?} by certificate {column}"
                );
                cells += 1;
            }
            for (column, token) in expected(*access)[2..].chars().zip(&tokens) {
                assert_eq!(
                    let_in(&nobody, path, Some(token)).await,
                    open(column),
                    "{path} {access:?} by token {column}"
                );
                cells += 1;
            }
        }
    }
    assert!(cells >= 2 * 10 * 50, "{cells} cells");
    world.server.stop().await;
}

#[tokio::test]
async fn what_is_no_certificate_here_lets_nobody_in() {
    let world = Secured::new().await;
    let hour = Duration::from_secs(3_600);
    // Of another authority, which says the same of itself.
    let other = Pki::new();
    std::fs::copy(world.pki.path("ca.pem"), other.path("ca.pem")).expect("its servers are believed");
    let expired = Validity { now: SystemTime::now() - 3 * hour, life: hour };
    let elsewhere: sockpilot_identity::name::Name =
        "spiffe://elsewhere.test/person/ad/role/admin".parse().expect("a name");
    let issued = world.pki.authority.issue(&elsewhere, &[], crate::secured::now(hour)).expect("issued");
    let domain = Own { certificate: world.pki.path("e.pem"), key: world.pki.path("e-key.pem") };
    std::fs::write(&domain.certificate, issued.certificate).expect("written");
    std::fs::write(&domain.key, issued.key).expect("written");
    for (why, own) in [
        ("another authority", other.own("person/ad/role/admin")),
        ("expired", world.pki.issue_to("expired", "person/ad/role/admin", expired)),
        ("another domain", domain),
        ("a server's", world.pki.own("server")),
        ("no role", world.pki.own("person/ad")),
    ] {
        for door in [world.server.address(), world.server.node_address()] {
            let channel = world.pki.channel(door, Some(&own));
            for (path, _) in access::all() {
                // Joining and health are for everyone.
                let open = let_in(&channel, &path, None).await;
                assert!(!open || path == "/sockpilot.v1.JoinService/Join", "{why}: {path}");
            }
        }
    }
    world.server.stop().await;
}

/// What a role needs, as the documentation says it.
#[test]
fn the_documentation_has_every_method() {
    let words = [
        (Access::Anyone, "everyone"),
        (Access::Node, "nodes, each for itself"),
        (Access::Viewer, "viewers"),
        (Access::BoundOperator, "operators, also bound ones"),
        (Access::Operator, "operators of the whole fleet"),
        (Access::Admin, "admins"),
    ];
    let mut table = "\n| for | calls |\n|---|---|\n".to_owned();
    for (access, who) in words {
        let of = access::all().into_iter().filter(|(_, of)| *of == access);
        let names: Vec<_> =
            of.filter_map(|(path, _)| Some(format!("`{}`", path.strip_prefix("/sockpilot.v1.")?))).collect();
        table += &format!("| {who} | {} |\n", names.join(", "));
    }
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let text = std::fs::read_to_string(&file).expect("readable");
    let (before, rest) = text.split_once("test it matrix -->\n").expect("a beginning");
    let (found, after) = rest.split_once("<!-- end -->").expect("an end");
    let expected = format!("{table}\n");
    if std::env::var_os("SOCKPILOT_UPDATE").is_some() {
        std::fs::write(&file, format!("{before}test it matrix -->\n{expected}<!-- end -->{after}")).expect("written");
        return;
    }
    assert_eq!(found, expected, "run with SOCKPILOT_UPDATE=1");
}

//! The zone map: to the nodes whose layers refer to it, and to nobody else.

use sockpilot_proto::v1;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use crate::world::{World, everyone, experiment, fields, generation, hello, nobody, policy, zone_map};

const TWO: &[(&str, &str)] = &[("fra-1", "10.1.0.0/16"), ("sin-1", "10.2.0.0/16")];

fn update(zone_map: v1::ZoneMap) -> v1::UpdateZoneMapRequest {
    v1::UpdateZoneMapRequest { zone_map: Some(zone_map), ..v1::UpdateZoneMapRequest::default() }
}

async fn get(world: &mut World) -> v1::ZoneMap {
    world.zones.get_zone_map(v1::GetZoneMapRequest {}).await.expect("a map").into_inner()
}

async fn put(world: &mut World, zones: &[(&str, &str)]) -> v1::ZoneMap {
    world.zones.update_zone_map(update(zone_map(zones))).await.expect("updated").into_inner()
}

/// A policy with one rule that names a zone.
fn naming(id: &str, zone: &str) -> v1::Policy {
    let mut policy = policy(id, 1_000);
    policy.rules[0].r#match = Some(v1::Match { remote_zones: vec![zone.to_owned()], ..v1::Match::default() });
    policy
}

async fn apply(world: &mut World, policy: v1::Policy, target: Option<v1::Target>) -> Result<v1::Policy, Status> {
    let request = v1::UpdatePolicyRequest {
        reason: "by a test".to_owned(),
        policy: Some(policy),
        allow_missing: true,
        target,
        ..v1::UpdatePolicyRequest::default()
    };
    world.policies.update_policy(request).await.map(Response::into_inner)
}

fn zones(snapshot: &v1::Snapshot) -> Vec<String> {
    let layers: v1::Layers = prost::Message::decode(snapshot.layers.clone()).expect("layers");
    layers.zones.into_iter().map(|zone| zone.name).collect()
}

#[tokio::test]
async fn the_map_goes_to_nodes_that_need_it_and_to_no_other() {
    let mut world = World::new().await;
    put(&mut world, TWO).await;
    apply(
        &mut world,
        v1::Policy { node_labels: [("zone".to_owned(), "a".to_owned())].into(), ..naming("p", "fra-1") },
        None,
    )
    .await
    .expect("stored");
    world.create("q").await;
    let mut with = world.connect(hello("with")).await;
    let mut without = world.connect(v1::Hello { labels: [].into(), ..hello("without") }).await;
    let first = with.take().await;
    assert_eq!(zones(&first), ["fra-1", "sin-1"]);
    assert!(zones(&without.take().await).is_empty());

    put(&mut world, &[("fra-1", "10.1.0.0/16"), ("fra-2", "10.3.0.0/16")]).await;
    let second = with.take().await;
    assert_eq!(zones(&second), ["fra-1", "fra-2"]);
    assert!(generation(&second) > generation(&first));
    without.quiet().await;
    put(&mut world, &[("fra-1", "10.1.0.0/16"), ("fra-2", "10.3.0.0/16")]).await;
    with.quiet().await;
}

#[tokio::test]
async fn a_relation_alone_needs_the_map() {
    let mut world = World::new().await;
    let mut near = policy("p", 1_000);
    let zone_relation = v1::ZoneRelation::SameRegion.into();
    near.rules[0].r#match = Some(v1::Match { zone_relation, ..v1::Match::default() });
    apply(&mut world, near, None).await.expect("stored, though there is no map yet");
    let mut node = world.connect(hello("n")).await;
    assert!(zones(&node.take().await).is_empty());
    put(&mut world, TWO).await;
    assert_eq!(zones(&node.take().await), ["fra-1", "sin-1"]);
    put(&mut world, &[]).await;
    assert!(zones(&node.take().await).is_empty());
}

#[tokio::test]
async fn the_map_has_an_etag_and_an_audit_row() {
    let mut world = World::new().await;
    let empty = get(&mut world).await;
    assert_eq!((empty.name.as_str(), empty.zones.len()), ("zoneMap", 0));
    let mut request = Request::new(v1::UpdateZoneMapRequest {
        reason: "a new site".to_owned(),
        ..update(v1::ZoneMap { etag: empty.etag.clone(), name: "zoneMap".to_owned(), ..zone_map(TWO) })
    });
    request.metadata_mut().insert("x-sockpilot-actor", "alice".parse().expect("ascii"));
    let first = world.zones.update_zone_map(request).await.expect("updated").into_inner();
    assert_eq!(first, get(&mut world).await);
    assert_ne!(first.etag, empty.etag);
    assert_eq!(put(&mut world, TWO).await, first, "the same map changes nothing");
    let stale = update(v1::ZoneMap { etag: empty.etag, ..zone_map(&[]) });
    assert_eq!(world.zones.update_zone_map(stale).await.expect_err("too slow").code(), Code::Aborted);
    let request = v1::ListAuditEntriesRequest { name: "zoneMap".to_owned(), ..v1::ListAuditEntriesRequest::default() };
    let entries = world.fleet.list_audit_entries(request).await.expect("entries").into_inner().entries;
    let [entry] = entries.as_slice() else { panic!("one change, {entries:?}") };
    assert_eq!(
        (entry.actor.as_str(), entry.method.as_str(), entry.name.as_str()),
        ("alice", "UpdateZoneMap", "zoneMap")
    );
    assert_eq!((entry.revision, entry.reason.as_str()), (1, "a new site"));
    assert!(entry.generation > 1 && entry.request_json.contains("10.2.0.0/16"), "{entry:?}");
}

#[tokio::test]
async fn a_map_is_only_checked_or_answered_once() {
    let mut world = World::new().await;
    let ask = v1::UpdateZoneMapRequest { validate_only: true, ..update(zone_map(TWO)) };
    assert_eq!(world.zones.update_zone_map(ask).await.expect("fine").into_inner().zones.len(), 2);
    assert!(get(&mut world).await.zones.is_empty());
    let request_id = uuid::Uuid::new_v4().to_string();
    let request = v1::UpdateZoneMapRequest { request_id: request_id.clone(), ..update(zone_map(TWO)) };
    let first = world.zones.update_zone_map(request.clone()).await.expect("updated").into_inner();
    put(&mut world, &[]).await;
    assert_eq!(world.zones.update_zone_map(request).await.expect("again").into_inner(), first, "the first answer");
    assert!(get(&mut world).await.zones.is_empty(), "and nothing else");
    let other = v1::UpdateZoneMapRequest { request_id, ..update(zone_map(&TWO[..1])) };
    assert_eq!(fields(&world.zones.update_zone_map(other).await.expect_err("another request")), ["request_id"]);
    assert_eq!(world.audit().await.len(), 2);
}

#[tokio::test]
async fn a_bad_map_is_refused_as_a_whole() {
    let mut world = World::new().await;
    let mut bad = zone_map(&[("fra-1", "10.0.0.1/8"), ("Fra", "10.2.0.0/16"), ("fra-1", "10.2.0.0/16")]);
    bad.name = "zones".to_owned();
    bad.etag = "e".repeat(65);
    let request = v1::UpdateZoneMapRequest { reason: "r".repeat(1_001), request_id: "x".to_owned(), ..update(bad) };
    let status = world.zones.update_zone_map(request).await.expect_err("refused");
    let expected = [
        "etag",
        "reason",
        "request_id",
        "zone_map.name",
        "zone_map.zones[0].prefixes[0]",
        "zone_map.zones[1].name",
        "zone_map.zones[1].region",
        "zone_map.zones[2].name",
        "zone_map.zones[2].prefixes[0]",
    ];
    assert_eq!(fields(&status), expected);
    let empty = world.zones.update_zone_map(v1::UpdateZoneMapRequest::default()).await.expect_err("refused");
    assert_eq!(fields(&empty), ["zone_map"]);
    assert!(get(&mut world).await.zones.is_empty());
    assert_eq!(world.audit().await, []);
}

#[tokio::test]
async fn what_names_an_unknown_zone_is_refused() {
    let mut world = World::new().await;
    put(&mut world, TWO).await;
    for target in [everyone(), nobody()] {
        let status = apply(&mut world, naming("p", "fra-9"), target).await.expect_err("unknown");
        assert_eq!(fields(&status), ["policy.rules[0].match.remote_zones[0]"]);
    }
    let mut unknown = experiment("e");
    let local_zones = vec!["sin-1".to_owned(), "x".to_owned()];
    unknown.r#match = Some(v1::Match { local_zones, ..v1::Match::default() });
    let request = v1::CreateExperimentRequest { experiment: Some(unknown), ..v1::CreateExperimentRequest::default() };
    let status = world.experiments.create_experiment(request).await.expect_err("unknown");
    assert_eq!(fields(&status), ["experiment.match.local_zones[1]"]);
    assert_eq!(world.audit().await.len(), 1, "only the map");
}

#[tokio::test]
async fn a_zone_stays_while_an_assigned_revision_names_it() {
    let mut world = World::new().await;
    put(&mut world, TWO).await;
    apply(&mut world, naming("p", "fra-1"), None).await.expect("stored");
    let status = world.zones.update_zone_map(update(zone_map(&TWO[1..]))).await.expect_err("named");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let details = status.get_error_details();
    let violation = &details.precondition_failure().expect("why").violations[0];
    assert_eq!(violation.subject, "zoneMap");
    assert!(violation.description.contains("zone fra-1 is named by policies/p@1"), "{}", violation.description);
    put(&mut world, &TWO[..1]).await;

    // Once nobody has the revision, the zone may go; the revision cannot come back without it.
    apply(&mut world, policy("p", 2_000), None).await.expect("stored");
    put(&mut world, &[]).await;
    let back = v1::RollbackRevisionRequest { name: "policies/p".to_owned(), ..v1::RollbackRevisionRequest::default() };
    let status = world.assignments.rollback_revision(back.clone()).await.expect_err("no such zone any more");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("fra-1"), "{}", status.message());
    put(&mut world, TWO).await;
    world.assignments.rollback_revision(back).await.expect("now it can");
}

//! Changes that nobody sent: a task of the server decides, under the lease of the fleet, and the audit log says on what.

use std::sync::Arc;

use sockpilot_proto::v1;
use sockpilot_server::{
    change::{
        apply::{Change, apply},
        author::Author,
        plan::Action,
    },
    store::{Error, Result, Settled, Store, leader::Fence},
};
use tonic::{Code, Request};

use crate::world::{World, fields, hello, layers, policy, share, until};

/// What a rollout that goes wrong would do.
async fn roll_back(store: &Store, epoch: i64) -> Result<()> {
    let change = Change {
        name: "policies/p".parse().expect("a name"),
        action: Action::Rollback { revision: None },
        etag: String::new(),
        sent: None,
    };
    let author = Author::Controller {
        task: "rollout",
        reason: "retransmissions have doubled".to_owned(),
        evidence: serde_json::json!({ "before": 0.01, "after": 0.02 }),
    };
    let work = Arc::new((author, change));
    let done = store.transact_as_leader(Fence { epoch }, "roll back", move |conn| {
        let work = work.clone();
        Box::pin(async move {
            let (author, change) = &*work;
            Ok(Settled::Commit(apply(conn, author, change).await?))
        })
    });
    done.await.map(drop)
}

/// The epoch of the lease, as the task that keeps it says.
async fn epoch(world: &World) -> i64 {
    let said = || {
        let mut fleet = world.fleet.clone();
        async move {
            let servers = fleet.list_servers(v1::ListServersRequest::default()).await.expect("servers").into_inner();
            let tasks = servers.servers.into_iter().flat_map(|server| server.tasks);
            let leader = tasks.into_iter().find(|task| task.name == "leader")?;
            leader.last_result.strip_prefix("leads, epoch ")?.parse().ok()
        }
    };
    until("the server leads", said, Option::is_some).await.expect("an epoch")
}

#[tokio::test]
async fn a_controller_changes_what_nodes_have_and_says_why() {
    let mut world = World::new().await;
    world.create("p").await;
    world.update("p", 2_000, share(9_999)).await;
    let mut node = world.connect(hello("n")).await;
    let given = node.take().await;
    assert_eq!(layers(&given)[0], "policies/p@2", "the canary");
    let epoch = epoch(&world).await;

    let deposed = roll_back(world.server.store(), epoch - 1).await;
    assert!(matches!(deposed, Err(Error::Deposed { .. })), "{deposed:?}");
    let before = world.audit().await.len();
    roll_back(world.server.store(), epoch).await.expect("rolled back");
    let given = node.take().await;
    assert_eq!(layers(&given), ["policies/p@1"], "the node gets it as any other change");

    let audit = world.audit().await;
    assert_eq!(audit.len(), before + 1, "what the deposed leader tried left nothing");
    let v1::AuditEntry { actor, method, name, revision, reason, request_json, .. } = &audit[0];
    assert_eq!((actor.as_str(), method.as_str()), ("controllers/rollout", "RollbackRevision"));
    assert_eq!((name.as_str(), *revision, reason.as_str()), ("policies/p", 1, "retransmissions have doubled"));
    let evidence: serde_json::Value = serde_json::from_str(request_json).expect("JSON");
    assert_eq!(evidence, serde_json::json!({ "before": 0.01, "after": 0.02 }));
    let status = world.status("policies/p").await;
    assert_eq!(status.assignments.len(), 1, "the canary has ended");

    // The state may forbid it to a controller as to a person.
    let again = roll_back(world.server.store(), epoch).await;
    assert!(matches!(again, Err(Error::Refused { .. })), "{again:?}");
}

#[tokio::test]
async fn no_request_is_a_controllers() {
    let mut world = World::new().await;
    let message = v1::CreatePolicyRequest { policy: Some(policy("p", 1_000)), ..v1::CreatePolicyRequest::default() };
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-sockpilot-actor", "controllers/rollout".parse().expect("ascii"));
    let refused = world.policies.create_policy(request).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(fields(&refused), ["x-sockpilot-actor"]);
}

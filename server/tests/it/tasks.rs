//! Background tasks: one that dies ends its server, one replica acts for the fleet, and a leader that stalled does no harm.

use std::{future::pending, sync::Arc, time::Duration};

use sockpilot_proto::v1;
use sockpilot_server::{
    Config, StartError,
    metrics::Metrics,
    store::{Error, Settled, Store, connection::PgConnection, leader},
    task::leader::Fence,
    test_support::{self, Fault, FaultPoints},
};

use tokio::{sync::Notify, time::timeout};
use tonic::Code;
use uuid::Uuid;

use crate::world::{DEADLINE, World, hello, until};

const TASKS: [&str; 12] = [
    "access",
    "heartbeats",
    "janitor",
    "leader",
    "presence",
    "recorder",
    "recordings",
    "refresh",
    "retention",
    "roll-up",
    "rollouts",
    "verdicts",
];

/// The servers, by address, as one of them lists them.
async fn servers(world: &World) -> Vec<v1::Server> {
    let request = v1::ListServersRequest::default();
    let mut servers = world.fleet.clone().list_servers(request).await.expect("servers").into_inner().servers;
    servers.sort_by(|a, b| a.address.cmp(&b.address));
    servers
}

fn leaders(servers: &[v1::Server]) -> Vec<&str> {
    servers.iter().filter(|server| server.leader).map(|server| server.address.as_str()).collect()
}

#[tokio::test]
async fn each_task_that_dies_ends_the_server() {
    for task in TASKS {
        let config = test_support::config().await;
        config.faults.set(task, Fault::Panic);
        let ended = timeout(DEADLINE, sockpilot_server::run(config, pending())).await;
        match ended.expect("it does not go on as if nothing were") {
            Err(StartError::Died(death)) => {
                assert_eq!((death.task, death.why.as_str()), (task, "panicked: a fault of a test"));
            }
            other => panic!("{task}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_whose_fleet_is_not_loaded_any_more_lets_its_nodes_go() {
    let config = test_support::config().await;
    let mut world = World::of(config.clone()).await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    node.take().await;
    config.faults.set("refresh", Fault::Panic);
    // It is stored, but nobody tells the nodes: now the task is woken.
    world.update("p", 2_000, None).await;
    let death = timeout(DEADLINE, world.server.death()).await.expect("noticed");
    assert_eq!(death.task, "refresh");
    world.server.stop().await;
    assert_eq!(node.next().await.expect_err("no stream without news").code(), Code::Unavailable);
}

#[tokio::test]
async fn a_failing_task_is_tried_again_and_says_why() {
    let config = test_support::config().await;
    let store = test_support::owner_store(&config).await;
    let world = World::of(config).await;
    let rename = async |from: &'static str, to: &'static str| {
        let renamed =
            store.transact("rename", move |conn| Box::pin(execute(conn, format!("ALTER TABLE {from} RENAME TO {to}"))));
        renamed.await.expect("renamed");
    };
    let refresh = async || {
        let tasks = servers(&world).await.into_iter().flat_map(|server| server.tasks);
        tasks.into_iter().find(|task| task.name == "refresh").unwrap_or_default()
    };
    rename("assignment", "elsewhere").await;
    let failed = until("the failure is listed", &refresh, |task| !task.last_error.is_empty()).await;
    assert!(failed.last_error.contains("assignment"), "{failed:?}");
    assert!(failed.failures >= 1 && failed.last_result.is_empty(), "{failed:?}");
    rename("elsewhere", "assignment").await;
    let again = until("it succeeds again", &refresh, |task| task.last_error.is_empty()).await;
    assert!(again.failures >= failed.failures && again.last_result.starts_with("generation "), "{again:?}");
    world.server.stop().await;
}

#[tokio::test]
async fn replicas_list_each_other_and_one_leads() {
    let config = test_support::config().await;
    let first = World::of(config.clone()).await;
    let second = World::of(config).await;
    let both = until(
        "both are listed",
        async || servers(&second).await,
        |servers| {
            servers.len() == 2
                && leaders(servers).len() == 1
                && servers.iter().flat_map(|server| &server.tasks).all(|task| task.runs > 0)
        },
    )
    .await;
    assert_eq!(both.len(), servers(&first).await.len(), "either says the same");
    for server in &both {
        let names: Vec<_> = server.tasks.iter().map(|task| task.name.as_str()).collect();
        assert_eq!(names, TASKS);
        assert!(server.last_contact_time.is_some() && server.start_time.is_some() && !server.version.is_empty());
    }
    let leads = leaders(&both)[0].to_owned();
    let (leader, other) = if first.server.address().to_string() == leads { (first, second) } else { (second, first) };
    let heir = other.server.address().to_string();
    leader.server.stop().await;
    // Left at once by a server that stops: nobody waits for the lease to run out.
    let left = until("the other leads", async || servers(&other).await, |servers| leaders(servers) == [heir.as_str()]);
    assert_eq!(left.await.len(), 1);
    other.server.stop().await;
}

#[tokio::test]
async fn a_leader_that_stalls_past_its_lease_is_replaced() {
    let stalls = FaultPoints::default();
    let config = Config { leader_lease: Duration::from_millis(300), ..test_support::config().await };
    let first = World::of(Config { faults: stalls.clone(), ..config.clone() }).await;
    until("it leads", async || servers(&first).await, |servers| leaders(servers).len() == 1).await;
    let second = World::of(config).await;
    let heir = second.server.address().to_string();
    stalls.set("leader", Fault::Stall);
    until("the other leads", async || servers(&second).await, |servers| leaders(servers) == [heir.as_str()]).await;
    // Awake again, it finds the lease taken.
    stalls.clear("leader");
    let told = async || {
        let all = servers(&first).await.into_iter().filter(|server| server.address != heir);
        all.flat_map(|server| server.tasks).find(|task| task.name == "leader").unwrap_or_default().last_result
    };
    until("it knows", told, |result| result == "another server leads").await;
    assert_eq!(leaders(&servers(&first).await), [heir.as_str()]);
    first.server.stop().await;
    second.server.stop().await;
}

async fn execute(conn: &mut PgConnection, statement: String) -> sockpilot_server::store::Result<Settled<()>> {
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(conn).await;
    done.map(|_| Settled::Commit(())).map_err(|source| Error::Database { operation: "test", source })
}

async fn take(store: &Store, server: Uuid, lease: Duration) -> Option<i64> {
    let taken = store.transact("lead", move |conn| {
        Box::pin(async move { Ok(Settled::Commit(leader::take(conn, server, lease).await?)) })
    });
    taken.await.expect("an answer")
}

async fn count(store: &Store) -> i64 {
    let counted = store.read("count", |conn| {
        Box::pin(async move {
            let count = sqlx::query_scalar("SELECT count(*) FROM acts").fetch_one(conn).await;
            count.map_err(|source| Error::Database { operation: "count", source })
        })
    });
    counted.await.expect("counted")
}

async fn act(store: &Store, epoch: i64) -> sockpilot_server::store::Result<()> {
    let acted = store.transact_as_leader(Fence { epoch }, "act", |conn| {
        Box::pin(execute(conn, "INSERT INTO acts DEFAULT VALUES".to_owned()))
    });
    acted.await
}

#[tokio::test]
async fn who_was_deposed_writes_nothing() {
    let address = test_support::empty_database().await;
    let store = Store::new(address.candidates().expect("an address"), Metrics::new());
    store.locate().await.expect("a database");
    store.migrate().await.expect("a schema");
    let made = store.transact("make", |conn| {
        Box::pin(execute(conn, "CREATE TABLE acts (act bigint GENERATED ALWAYS AS IDENTITY)".to_owned()))
    });
    made.await.expect("made");
    let (stalled, heir) = (Uuid::now_v7(), Uuid::now_v7());
    let long = Duration::from_secs(600);
    let epoch = take(&store, stalled, long).await.expect("the lease is free");
    assert_eq!(take(&store, stalled, long).await, Some(epoch), "renewed in time: the same epoch");
    assert_eq!(take(&store, heir, long).await, None, "it is not free");
    act(&store, epoch).await.expect("the leader acts");

    // The lease runs out while a transaction of the leader is open: the heir waits for its end.
    let (began, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let open = tokio::spawn({
        let (store, began, goes_on) = (store.clone(), began.clone(), goes_on.clone());
        async move {
            let acted = store.transact_as_leader(Fence { epoch }, "act", move |conn| {
                let (began, goes_on) = (began.clone(), goes_on.clone());
                Box::pin(async move {
                    began.notify_one();
                    goes_on.notified().await;
                    execute(conn, "INSERT INTO acts DEFAULT VALUES".to_owned()).await
                })
            });
            acted.await
        }
    });
    began.notified().await;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move {
            let ended = store.transact("end the lease", |conn| {
                Box::pin(execute(conn, "UPDATE leader SET until = '-infinity'".to_owned()))
            });
            ended.await.expect("the lease has run out");
            take(&store, heir, long).await
        }
    });
    let blocked = async || {
        let query =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        let counted = store.read("blocked", move |conn| {
            Box::pin(async move {
                let count = sqlx::query_scalar::<_, i64>(query).fetch_one(conn).await;
                count.map_err(|source| Error::Database { operation: "blocked", source })
            })
        });
        counted.await.expect("counted")
    };
    until("the heir waits", blocked, |blocked| *blocked > 0).await;
    assert!(!waiting.is_finished());
    goes_on.notify_one();
    open.await.expect("no panic").expect("what was begun in time is done");
    let after = waiting.await.expect("no panic").expect("now it leads");
    assert!(after > epoch);
    assert_eq!(count(&store).await, 2);

    // The old leader wakes.
    match act(&store, epoch).await {
        Err(Error::Deposed { epoch: lost }) => assert_eq!(lost, epoch),
        other => panic!("{other:?}"),
    }
    assert_eq!(count(&store).await, 2, "it wrote nothing");
    act(&store, after).await.expect("the heir acts");
    assert_eq!(count(&store).await, 3);
}

//! A database behind a pooler that gives every transaction another session.

use std::time::Duration;

use sockpilot_programs::PGBOUNCER;
use sockpilot_server::{
    Config,
    metrics::Metrics,
    store::{Error, Result, Settled, Store, address::Address},
    test_support::{self, Directory},
};

use crate::{
    cluster::{Postgres, Running, at, reserved_port, unprivileged_command, write},
    world::{World, eventually, hello, layers},
};

/// A pooler in transaction mode before a database.
struct Pooler {
    port: u16,
    _process: Running,
    _directory: Directory,
}

impl Pooler {
    fn start(postgres: &Postgres, settings: &str) -> Self {
        let (directory, port) = (test_support::directory(), reserved_port());
        let (users, file) = (directory.path().join("users.txt"), directory.path().join("pgbouncer.ini"));
        write(&users, "\"guarded\" \"\"\n", 0o600);
        let text = format!(
            "[databases]\napp = host=127.0.0.1 port={} dbname=app\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n{settings}\n",
            postgres.port,
            users.display()
        );
        write(&file, &text, 0o600);
        let process = Running(
            unprivileged_command(PGBOUNCER.command().expect("installed")).arg(&file).spawn().expect("pgbouncer starts"),
        );
        Self { port, _process: process, _directory: directory }
    }

    fn url(&self) -> String {
        format!("postgres://guarded@127.0.0.1:{}/app", self.port)
    }
}

#[tokio::test]
async fn sessions_may_be_pooled_by_transaction() {
    let postgres = Postgres::start("host all all 127.0.0.1/32 trust", &[]).await;
    for pool_size in [1, 3] {
        let pooler = Pooler::start(&postgres, &format!("default_pool_size = {pool_size}"));
        let poll = Duration::from_millis(200);
        let mut one = World::of(Config { poll, ..at(&pooler.url()) }).await;
        let mut other = World::of(Config { poll, ..at(&pooler.url()) }).await;
        let name = format!("p{pool_size}");
        one.create(&name).await;
        let mut node = other.connect(hello("n")).await;
        node.take().await;
        // Both change things at once, on sessions that they take from each other, and the node of one gets what the other did.
        for round in 1..=20_u32 {
            let (a, b) = tokio::join!(one.update(&name, 1_000 + round, None), other.node("n"));
            assert_eq!((a.revision, b.connected), (u64::from(round) + 1, true));
            other.status(&format!("policies/{name}")).await;
        }
        let mut last = node.take().await;
        while !layers(&last).contains(&format!("policies/{name}@21")) {
            last = node.take().await;
        }
        for world in [one, other] {
            assert_eq!(world.server.metrics().database_errors.get(), 0);
            world.server.stop().await;
        }
        assert_eq!(postgres.sql("app", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
    }
}

/// By a statement that has a name, where sessions are believed to be the connection's.
async fn told(store: &Store, text: &'static str) -> Result<String> {
    let work = store.transact("a test", move |conn| {
        Box::pin(async move {
            let told = sqlx::query_scalar(text).bind("told").fetch_one(conn).await;
            told.map(Settled::Commit).map_err(|source| Error::Database { operation: "a test", source })
        })
    });
    work.await
}

/// Others' transactions may hide a pooler from who looks for it. Nobody looks here at all.
#[tokio::test]
async fn a_pooler_that_was_not_noticed_is_when_a_name_is_not_ours() {
    let postgres = Postgres::start("host all all 127.0.0.1/32 trust", &[]).await;
    let pooler = Pooler::start(&postgres, "default_pool_size = 1");
    let store = || {
        let candidates = Address::Url(pooler.url()).candidates().expect("an address");
        Store::new(candidates, Metrics::new())
    };
    let (one, other) = (store(), store());
    eventually("the pooler answers", async || told(&one, "SELECT $1").await.is_ok()).await;
    let refused = told(&other, "SELECT $1 || ' otherwise'").await.expect_err("the session has the name of the first");
    assert!(refused.is_unavailable(), "the same again will do: {refused:?}");
    assert_eq!(told(&other, "SELECT $1 || ' otherwise'").await.expect("no names"), "told otherwise");
    assert_eq!(told(&one, "SELECT $1").await.expect("its own name"), "told");
    one.close().await;
    other.close().await;
}

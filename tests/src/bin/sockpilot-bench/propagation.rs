//! From publishing a revision, durably, to its being in force on a real node.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{policy, rule},
    machine::Machine,
    node::Node,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    wait::{eventually, pass},
};

use crate::{Figures, note, quantile};

const CHANGES: u32 = 200;
const WARM_UP: u32 = 10;
/// Between two changes, so that none waits for the one before.
const PAUSE: Duration = Duration::from_millis(20);

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let postgres = Postgres::start(machine, Durability::Disk)?;
    let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
    let admin = server.admin()?;
    let cgroup = Cgroup::new(machine, "managed")?;
    let _node = Node::start(machine, "node", &server.url(), &cgroup, &[])?;
    admin.wait_for_nodes(&["node"])?;
    let (mut publish, mut in_force) = (Vec::new(), Vec::new());
    for number in 1..=CHANGES + WARM_UP {
        let set = v1::Parameters { cwnd_clamp_packets: Some(10 + number), ..v1::Parameters::default() };
        let document = policy("web", 1, vec![rule("all", v1::Match::default(), set)]);
        let began = SystemTime::now();
        let revision = admin.put_policy(document, everyone())?.revision;
        let published = began.elapsed().context("the clock went back")?;
        let confirmed = confirmed(&admin, revision)?;
        if number > WARM_UP {
            publish.push(published.as_secs_f64() * 1e3);
            in_force
                .push(confirmed.duration_since(began).context("confirmed before it was asked")?.as_secs_f64() * 1e3);
        }
        pass(PAUSE)?;
    }
    note(figures, "publish_ms_p50", quantile(&mut publish, 0.5));
    note(figures, "publish_ms_p99", quantile(&mut publish, 0.99));
    note(figures, "propagation_ms_p50", quantile(&mut in_force, 0.5));
    note(figures, "propagation_ms_p99", quantile(&mut in_force, 0.99));
    Ok(())
}

/// When the server had the node's confirmation, by the server's clock, which is ours.
fn confirmed(admin: &Admin, revision: u64) -> Result<SystemTime> {
    eventually(&format!("revision {revision} is in force"), Duration::from_secs(20), || {
        let nodes = admin.nodes()?;
        let layers = &nodes.get("node").context("the node is unknown")?.layers;
        let layer = layers.iter().find(|layer| layer.confirmed_revision == revision).context("not yet")?;
        SystemTime::try_from(layer.confirm_time.context("no time")?).context("no time")
    })
}

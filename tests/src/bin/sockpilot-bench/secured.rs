//! What TLS costs, apart: the same figures with a certificate and a handshake for each of a thousand nodes. And how soon who is shut out is
//! out.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    documents::clamped,
    machine::Machine,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    simulated::SimulatedNodes,
    wait::{eventually, pass},
};

use crate::{Figures, note, quantile};

const NODES: usize = 1_000;
const CHANGES: u32 = 30;
/// Of nodes that are on the first page of all of them, by name.
const CUTS: usize = 10;
const FIRST_CUT: usize = 100;
const PAUSE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(120);

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let postgres = Postgres::start(machine, Durability::Disk)?;
    let mut server = Server::start_secured(machine, Database::Url(postgres.url()), &[])?;
    let admin = server.admin()?;
    admin.put_policy(clamped(10), everyone())?;
    let fleet = SimulatedNodes::connect(&server, NODES, "policies/web")?;

    let mut last = (0..CHANGES).map(|at| change(&admin, &fleet, at)).collect::<Result<Vec<_>>>()?;
    note(figures, "fanout_1000_last_ms_p50_tls", quantile(&mut last, 0.5));
    note(figures, "fanout_1000_last_ms_p99_tls", quantile(&mut last, 0.99));

    let mut cuts = (0..CUTS).map(|at| cut(&admin, at)).collect::<Result<Vec<_>>>()?;
    note(figures, "revoked_node_cut_s", quantile(&mut cuts, 1.0));

    server.kill()?;
    server.restart()?;
    let began = Instant::now();
    eventually("all nodes are back", PATIENCE, || {
        let connected = server.counted("nodes_connected")?;
        // Those that are shut out are not.
        ensure!(connected == (NODES - CUTS) as u64, "{connected} are");
        Ok(())
    })?;
    note(figures, "reconnect_1000_s_tls", began.elapsed().as_secs_f64());
    Ok(())
}

fn change(admin: &Admin, fleet: &SimulatedNodes, at: u32) -> Result<f64> {
    let began = Instant::now();
    let made = admin.put_policy(clamped(11 + at), everyone())?;
    let last = fleet.all_have("the change", made.revision)?;
    pass(PAUSE)?;
    Ok(last.duration_since(began).as_secs_f64() * 1e3)
}

/// From the call until the server has no stream of the node.
fn cut(admin: &Admin, at: usize) -> Result<f64> {
    let id = format!("node-{}", FIRST_CUT + at);
    let request = v1::RevokeRequest { name: format!("nodes/{id}"), reason: "a benchmark".to_owned() };
    let began = Instant::now();
    admin.call(admin.access().revoke(request))?;
    eventually("it is cut off", PATIENCE, || {
        let request = v1::ListNodesRequest { page_size: 200, ..v1::ListNodesRequest::default() };
        let nodes = admin.call(admin.fleet().list_nodes(request))?.nodes;
        let node = nodes.iter().find(|node| node.name == format!("nodes/{id}")).context("it is not known")?;
        ensure!(!node.connected, "it is connected");
        Ok(())
    })?;
    Ok(began.elapsed().as_secs_f64())
}

//! Two servers on one database, nodes and writers at both, and all that is seen of them: for tests that break things meanwhile.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use prost::Message;
use sockpilot_proto::v1;
use tokio::runtime::Runtime;

use crate::{
    admin::Admin,
    crowd::{Crowd, Memory},
    history::History,
    postgres::Postgres,
    relay::Target,
    server::Server,
    wait::eventually,
    writers::Writers,
};

const WRITERS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(30);

/// See the [module](self).
#[derive(Debug)]
pub struct Trial<'m> {
    /// Played nodes.
    pub crowd: Crowd,
    /// People.
    pub writers: Writers,
    /// Clients of the servers.
    pub admins: [Admin; 2],
    /// Two.
    pub servers: [Server<'m>; 2],
    /// Of nodes, writers and relays.
    pub runtime: Runtime,
}

impl<'m> Trial<'m> {
    /// Starts nodes and writers at servers that are there, and waits until all are at work.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn start(runtime: Runtime, servers: [Server<'m>; 2], nodes: usize, seed: u64) -> Result<Self> {
        let admins = [servers[0].admin()?, servers[1].admin()?];
        let writers = Writers::start(&runtime, &[servers[0].url(), servers[1].url()], WRITERS, seed)?;
        let crowd = Crowd::start(&runtime, &servers.each_ref().map(place), nodes, seed)?;
        let trial = Self { crowd, writers, admins, servers, runtime };
        eventually("all nodes are connected", PATIENCE, || {
            let connected = trial.admins[0].nodes()?.values().filter(|node| node.connected).count();
            ensure!(connected >= nodes, "{connected} are");
            Ok(())
        })?;
        trial.writers.go_on(u64::from(WRITERS))?;
        Ok(trial)
    }

    /// Stops the writers, waits until all nodes are settled, and tells what was seen.
    ///
    /// # Errors
    /// If they do not settle within the limit.
    pub fn finish(self, postgres: &Postgres<'_>, limit: Duration) -> Result<Ended<'m>> {
        let Self { crowd, writers, admins, servers, runtime } = self;
        let done = writers.stop(&runtime);
        let stored = stored(postgres)?;
        let newest: BTreeMap<String, u64> = stored.keys().map(|(name, revision)| (name.clone(), *revision)).collect();
        crowd.wait_until_settled(&newest, limit)?;
        let Memory { sights, counted } = crowd.remembered()?;
        let history =
            History { writes: done.writes, reads: done.reads, sights, stored, counted, reported: reported(postgres)? };
        Ok(Ended { history, newest, admins, _crowd: crowd, servers, _runtime: runtime })
    }
}

/// What is there after a trial.
#[derive(Debug)]
pub struct Ended<'m> {
    /// What was seen.
    pub history: History,
    /// The last revision of each policy.
    pub newest: BTreeMap<String, u64>,
    /// As in [`Trial`].
    pub admins: [Admin; 2],
    _crowd: Crowd,
    /// As in [`Trial`].
    pub servers: [Server<'m>; 2],
    _runtime: Runtime,
}

impl Ended<'_> {
    /// The entries of the audit log, oldest first, which the chain must hold together.
    ///
    /// # Errors
    /// If it does not.
    pub fn audit(&self) -> Result<Vec<v1::AuditEntry>> {
        let said = self.servers[0].says(&["audit", "verify"]).context("the chain of the audit log")?;
        println!("{}", said.trim());
        let request = v1::ListAuditEntriesRequest { page_size: 200, ..v1::ListAuditEntriesRequest::default() };
        Ok(self.admins[0].call(self.admins[0].fleet().list_audit_entries(request))?.entries)
    }
}

/// Where nodes find a server.
#[must_use]
pub fn place(server: &Server<'_>) -> Target {
    Target::Port(server.address())
}

fn rows(postgres: &Postgres<'_>, sql: &str) -> Result<Vec<Vec<String>>> {
    let text = postgres.query(sql)?;
    Ok(text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect())
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).context("a hexadecimal digit");
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// Values of all revisions of all policies.
fn stored(postgres: &Postgres<'_>) -> Result<BTreeMap<(String, u64), u32>> {
    let mut stored = BTreeMap::new();
    let sql =
        "SELECT name, revision, encode(document, 'hex') FROM revision WHERE name LIKE 'policies/p_' ORDER BY 1, 2";
    for row in rows(postgres, sql)? {
        let [name, revision, document] = &row[..] else { continue };
        let document = v1::Policy::decode(bytes(document)?.as_slice()).context("reading a policy")?;
        let set = document.rules.first().and_then(|rule| rule.set.clone()).context("a rule that sets something")?;
        let value = set.cwnd_clamp_packets.context("a value")?;
        stored.insert((name.clone(), revision.parse()?), value);
    }
    Ok(stored)
}

/// Flows of played nodes that the database has.
fn reported(postgres: &Postgres<'_>) -> Result<BTreeMap<String, u64>> {
    let mut reported = BTreeMap::new();
    let sql = "SELECT node_id, encode(value, 'hex') FROM flow_cell JOIN flow_report_head USING (source_id)
               WHERE node_id LIKE 'node-%'";
    for row in rows(postgres, sql)? {
        let [node, value] = &row[..] else { continue };
        let cell = v1::FlowCell::decode(bytes(value)?.as_slice()).context("reading a cell")?;
        *reported.entry(node.clone()).or_default() += cell.counts.map_or(0, |counts| counts.flows);
    }
    Ok(reported)
}

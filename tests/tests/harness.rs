//! The harness itself: a tool that lies would make every proof worthless.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use sockpilot_tests::{
    cgroup::Cgroup,
    link::{End, Link, Way},
    machine::{Needs, scenario},
    netns::Netns,
    postgres::{Durability, Postgres},
    shaper::{Character, LossOf},
    traffic::{Agent, Opening},
};

const DELAY: Duration = Duration::from_millis(20);

fn address(text: &str) -> Result<IpAddr> {
    Ok(text.parse()?)
}

#[test]
fn a_link_delays_loses_and_tells() {
    scenario(Needs::Kernel, |machine| {
        let (near, far) = (Netns::new()?, Netns::new()?);
        let (here, there) = ([address("10.1.0.1")?, address("fd01::1")?], [address("10.1.0.2")?, address("fd01::2")?]);
        let character = Character { delay: DELAY, ..Character::default() };
        let ends = (End { netns: &near, addresses: &here }, End { netns: &far, addresses: &there });
        let link = Link::new(&ends.0, &ends.1, character, 1)?;
        let cgroup = Cgroup::new(machine, "near")?;
        let mut client = Agent::start(machine, "client", &near, Some(&cgroup))?;
        let mut server = Agent::start(machine, "server", &far, None)?;
        for remote in there {
            let at = server.listen(SocketAddr::new(remote, 0))?;
            let flows = client.open(&Opening { upload: 20_000, download: 50_000, ..Opening::new(at, 3) })?;
            for flow in &flows {
                ensure!(flow.error.is_none(), "{flow:?}");
                ensure!((40_000..80_000).contains(&flow.connect_us), "connect() took {} us", flow.connect_us);
            }
            ensure!(flows.len() == 3 && server.accepted()?.len() == 3, "three connections");
        }
        ensure!(link.sightings().len() == 12, "six SYNs and six SYN-ACKs: {:?}", link.sightings());

        let at = server.listen(SocketAddr::new(there[0], 0))?;
        link.set(Way::Forth, Character { loss: 1.0, loss_of: LossOf::Syn, ..character });
        let flows = client.open(&Opening { patience_ms: 300, ..Opening::new(at, 1) })?;
        ensure!(flows[0].error.is_some() && link.counts(Way::Forth).lost == 1, "the SYN is lost: {flows:?}");
        Ok(())
    });
}

#[test]
fn postgres_comes_back_after_a_kill_with_what_was_committed() {
    scenario(Needs::Nothing, |machine| {
        let mut postgres = Postgres::start(machine, Durability::Process)?;
        postgres.query("CREATE TABLE kept (number int); INSERT INTO kept VALUES (7)")?;
        postgres.kill()?;
        ensure!(postgres.query("SELECT 1").is_err(), "it is dead");
        postgres.restart()?;
        ensure!(postgres.query("SELECT number FROM kept")? == "7", "the row is there");
        Ok(())
    });
}

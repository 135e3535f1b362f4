//! A holdback on the real kernel: connections of one arm do not get a policy that is in force, and when its time has passed they get it
//! again, by the kernel alone: server and daemon are dead by then.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use sockpilot_policy::bucket::{flow_bucket, salt};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::everyone,
    cgroup::Cgroup,
    documents::{arm, clamp, experiment, policy, rule},
    machine::{Needs, scenario},
    node::Node,
    server::{Database, Server},
    traffic::{Flow, Opening},
    wait::pass,
    world::{Pair, Wire, short_path, socket},
};

const POLICY: &str = "policies/usual";
const HOLDBACK: &str = "experiments/holdback";
/// What the policy sets.
const PACKETS: u32 = 12;
/// What another one below it would set, which is not withheld.
const OTHER_PACKETS: u32 = 13;
const DSCP: u32 = 10;
const WITHHELD_BP: u32 = 3_000;
const DURATION_S: u32 = 10;
/// Of each look.
const FLOWS: usize = 60;
/// How far the fleet's time, as the node heard it, may be from this clock.
const CLOCKS: Duration = Duration::from_millis(500);

fn now() -> Result<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).context("before 1970")
}

/// Of all buckets some have no policy for a while, as many are their control, and the rest is outside.
fn holdback() -> v1::Experiment {
    let nothing = v1::Parameters::default;
    let arms = vec![
        arm("usual", WITHHELD_BP, nothing()),
        v1::Arm { withholds: true, ..arm("without", WITHHELD_BP, nothing()) },
    ];
    v1::Experiment {
        withholds: POLICY.to_owned(),
        duration_s: DURATION_S,
        horizon_s: 2,
        ..experiment("holdback", 50, v1::Match::default(), arms)
    }
}

fn is_withheld(flow: &Flow) -> bool {
    (WITHHELD_BP..2 * WITHHELD_BP).contains(&flow_bucket(salt("holdback"), &flow.key()))
}

fn open(pair: &mut Pair) -> Result<Vec<Flow>> {
    let opening = Opening { at_once: 4, ..Opening::new(socket("10.1.0.2", pair.port)?, FLOWS) };
    pair.client.open(&opening)
}

/// Connections have the policy, but for those it is withheld from: they have of the other policy what it would have set.
fn check(flows: &[Flow], withheld: bool) -> Result<()> {
    let mut counts = [0; 2];
    for flow in flows {
        let facts = flow.opened.as_ref().with_context(|| format!("not established: {flow:?}"))?;
        let packets = if withheld && is_withheld(flow) { OTHER_PACKETS } else { PACKETS };
        ensure!(facts.ssthresh == packets, "withheld: {withheld}, but {flow:?}");
        ensure!(facts.traffic_class >> 2 == DSCP, "another policy is not withheld: {flow:?}");
        counts[usize::from(is_withheld(flow))] += 1;
    }
    ensure!(counts.iter().all(|count| *count >= 5), "not both kinds: {counts:?}");
    Ok(())
}

#[test]
fn a_holdback_ends_by_itself() {
    scenario(Needs::Kernel, |machine| {
        let mut server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let mut node = Node::start(machine, "node", &server.url(), &cgroup, &[])?;
        admin.wait_for_nodes(&["node"])?;
        let mut pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        let other = v1::Parameters { dscp: Some(DSCP), ..clamp(OTHER_PACKETS) };
        for (name, priority, set) in [("usual", 20, clamp(PACKETS)), ("other", 10, other)] {
            let rules = vec![rule("all", v1::Match::default(), set)];
            let stored = admin.put_policy(policy(name, priority, rules), everyone())?;
            admin.wait_in_force("node", &stored.name, stored.revision)?;
        }
        check(&open(&mut pair)?, false)?;

        let stored = admin.put_experiment(holdback(), everyone())?;
        admin.wait_in_force("node", HOLDBACK, stored.revision)?;
        let request = v1::GetExperimentRequest { name: HOLDBACK.to_owned() };
        let running = admin.call(admin.experiments().get_experiment(request))?;
        let end = running.end_time.context("it has no end")?;
        // The kernel is told whole seconds, never before it is over.
        let end = Duration::from_secs(u64::try_from(end.seconds)? + u64::from(end.nanos > 0));
        check(&open(&mut pair)?, true)?;

        server.kill()?;
        node.kill()?;
        println!("both are dead {:?} before the end", end.saturating_sub(now()?));
        let mut looks = 0;
        loop {
            let flows = open(&mut pair)?;
            if now()? + CLOCKS >= end {
                break;
            }
            check(&flows, true)?;
            looks += 1;
            pass(Duration::from_millis(200))?;
        }
        ensure!(looks >= 3, "the end came too early to see anything: {looks}");
        pass((end + CLOCKS).saturating_sub(now()?))?;
        check(&open(&mut pair)?, false)?;

        // And the daemon that comes back does not bring it back.
        node.restart()?;
        pass(Duration::from_secs(1))?;
        check(&open(&mut pair)?, false)
    });
}

//! What a policy's status says about values is what the sockets of connections have, because the node's kernel was asked.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_policy::{parameter::sysctl::name, schedule::Syn};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{policy, rule},
    machine::{Machine, Needs, scenario},
    node::Node,
    server::{Database, Server},
    traffic::Opening,
    wait::eventually,
    world::{Pair, Wire, short_path, socket},
};

const PATIENCE: Duration = Duration::from_secs(30);
const NODE: &str = "node";

/// Parameter to effective value and note, as the policy's status has them.
fn effective(admin: &Admin) -> Result<BTreeMap<String, (String, String)>> {
    let request = v1::GetLayerStatusRequest { name: "policies/web".to_owned() };
    let status = admin.call(admin.fleet().get_layer_status(request))?;
    let told = status.effective.into_iter().map(|told| {
        let v1::EffectiveOnNodes { revision, value, nodes } = told;
        let value = value.context("no value")?;
        ensure!((revision, nodes) == (1, 1), "{value:?} at revision {revision} on {nodes} nodes");
        let parameter = value.field.strip_prefix("rules[0].set.").context("another field")?.to_owned();
        Ok((parameter, (value.effective, value.note)))
    });
    told.collect()
}

/// What else holds of values, by parameter, as the policy's status has it and as `explain` has it for a connecting end.
fn caveats(admin: &Admin) -> Result<[BTreeMap<String, Vec<String>>; 2]> {
    let request = v1::GetLayerStatusRequest { name: "policies/web".to_owned() };
    let status = admin.call(admin.fleet().get_layer_status(request))?;
    let values = status.effective.into_iter().filter_map(|told| told.value);
    let of_status = values.map(|value| (value.field.replace("rules[0].set.", ""), value.caveats)).collect();
    let request = v1::ExplainFlowRequest {
        node: format!("nodes/{NODE}"),
        local_address: "10.1.0.1".to_owned(),
        local_port: 40_000,
        remote_address: "10.1.0.2".to_owned(),
        remote_port: 443,
        direction: v1::Direction::Active.into(),
        ..v1::ExplainFlowRequest::default()
    };
    let explained = admin.call(admin.fleet().explain_flow(request))?.parameters;
    let of_explained = explained.into_iter().map(|explained| (explained.parameter, explained.caveats)).collect();
    Ok([of_status, of_explained])
}

/// The schedule is what `kernel_handshakes` sees on the wire.
#[test]
fn the_status_and_explain_say_what_the_namespace_does_and_what_is_too_late() {
    scenario(Needs::Kernel, |machine: &Machine| {
        let cgroup = Cgroup::new(machine, "managed")?;
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let _node = Node::start(machine, NODE, &server.url(), &cgroup, &[])?;
        admin.wait_for_nodes(&[NODE])?;
        let set = v1::Parameters {
            syn_rto_ms: Some(200),
            syn_retries: Some(5),
            mark: Some(7),
            nodelay: Some(true),
            ..v1::Parameters::default()
        };
        let matches = v1::Match { direction: v1::Direction::Active.into(), ..v1::Match::default() };
        admin.put_policy(policy("web", 1, vec![rule("all", matches, set)]), everyone())?;
        admin.wait_in_force(NODE, "policies/web", 1)?;
        eventually("the status tells them", PATIENCE, || {
            ensure!(!caveats(&admin)?[0].is_empty(), "nothing is told");
            Ok(())
        })?;

        let facts = sockpilot_node::facts::read()?;
        let ticks = |ms: u32| u64::from((ms * facts.hz).div_ceil(1_000));
        let schedule = Syn {
            rto_ticks: ticks(200),
            retries: 5,
            linear_timeouts: facts.sysctl(name::SYN_LINEAR_TIMEOUTS).unwrap_or_default().into(),
            rto_max_ticks: ticks(facts.sysctl(name::RTO_MAX_MS).unwrap_or(120_000)),
            user_timeout_ticks: None,
        }
        .schedule();
        let times = schedule.again_ticks.len();
        for told in caveats(&admin)? {
            let of = |name: &str| told.get(name).with_context(|| format!("{name} is not in {told:?}"));
            for name in ["syn_rto_ms", "syn_retries"] {
                let [schedule] = of(name)?.as_slice() else { anyhow::bail!("{name}: {told:?}") };
                ensure!(schedule.starts_with(&format!("an unanswered SYN is sent again {times} times")), "{told:?}");
                ensure!(schedule.contains("net.ipv4.tcp_syn_retries"), "{told:?}");
            }
            let [mark] = of("mark")?.as_slice() else { anyhow::bail!("{told:?}") };
            ensure!(mark.contains("do not choose the source address"), "{told:?}");
            ensure!(told.get("nodelay").is_none_or(Vec::is_empty), "{told:?}");
        }
        let effective = effective(&admin)?;
        if times != 5 {
            ensure!(effective.get("syn_retries").is_some_and(|told| told.0 == times.to_string()), "{effective:?}");
        }
        Ok(())
    });
}

#[test]
fn what_the_status_says_is_what_sockets_have() {
    scenario(Needs::Kernel, |machine: &Machine| {
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let _node = Node::start(machine, NODE, &server.url(), &cgroup, &[])?;
        admin.wait_for_nodes(&[NODE])?;
        let facts = sockpilot_node::facts::read()?;
        let tick_ms = 1_000_u32.div_ceil(facts.hz);
        let set = v1::Parameters {
            send_buffer_bytes: Some(facts.wmem_max + 1),
            receive_buffer_bytes: Some(facts.rmem_max + 1),
            max_rto_ms: Some(1_000 + 1),
            window_clamp_bytes: Some(1_024),
            syn_rto_ms: Some(10 * tick_ms + 1),
            nodelay: Some(true),
            ..v1::Parameters::default()
        };
        admin.put_policy(policy("web", 1, vec![rule("all", v1::Match::default(), set)]), everyone())?;
        admin.wait_in_force(NODE, "policies/web", 1)?;
        eventually("the status tells them", PATIENCE, || {
            ensure!(!effective(&admin)?.is_empty(), "nothing differs");
            Ok(())
        })?;

        let told = effective(&admin)?;
        let of = |name: &str| told.get(name).with_context(|| format!("{name} is not in {told:?}"));
        for name in ["send_buffer_bytes", "receive_buffer_bytes", "window_clamp_bytes"] {
            ensure!(of(name)?.1.ends_with("read back from a socket"), "{name}: {told:?}");
        }
        // A kernel with a tick a millisecond does as it is told.
        ensure!(tick_ms == 1 || of("max_rto_ms")?.1.ends_with("read back from a socket"), "{told:?}");
        ensure!(tick_ms == 1 || of("syn_rto_ms")?.1.ends_with("computed from HZ"), "{told:?}");
        ensure!(!told.contains_key("nodelay"), "{told:?}");

        let mut pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        let flow =
            pair.client.open(&Opening::new(socket("10.1.0.2", pair.port)?, 1))?.pop().context("no connection")?;
        let opened = flow.opened.with_context(|| "not established".to_owned())?;
        let has = [("send_buffer_bytes", opened.send_buffer), ("receive_buffer_bytes", opened.receive_buffer)];
        for (name, bytes) in has {
            ensure!(of(name)?.0 == bytes.to_string(), "{name}: {bytes} on the socket, but {told:?}");
        }
        Ok(())
    });
}

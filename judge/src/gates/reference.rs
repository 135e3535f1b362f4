//! `docs/rollouts.md`. A test keeps it fresh.

use std::fmt::Write;

use super::metric::{DEFAULT_GATES, Form, METRICS};

/// The page.
#[must_use]
pub fn rollouts_page() -> String {
    let mut text = ROLLOUTS.to_owned();
    for metric in &METRICS {
        let of = match metric.form {
            Form::Share => "points of all connections",
            Form::Per(_) => "points of all segments sent",
            Form::Time => "the control's value",
        };
        let margin = f64::from(metric.margin_bp) / 100.0;
        let default = if DEFAULT_GATES.contains(&metric.name) { "yes" } else { "" };
        let (name, summary) = (metric.name, metric.summary);
        let _ = writeln!(text, "| `{name}` | {margin}% | {of} | {default} | {summary} |");
    }
    text
}

const ROLLOUTS: &str = "# Rollouts

The table at the end is generated from `judge/src/gates/metric.rs`; all of this page stands in `judge/src/gates/reference.rs`.

## What a gate says

A gate names a metric and a **margin**: how much worse it may become. Not to have become significantly worse would be the wrong question, for
where little was seen nothing is significant. A gate asks whether harm beyond its margin is *excluded*, and has one of four answers:

| verdict | when | what follows |
|---|---|---|
| PASS | harm beyond the margin is excluded | the step may go on when all gates have passed |
| FAIL | harm beyond the margin is shown | back to the good revision, at once |
| INCONCLUSIVE | neither, yet | wait; at the deadline what the plan says |
| NO DATA | on one side nothing was measured that has the metric | the same; none of many is data |

Only PASS goes on. No data and too little data never pass, however long one waits.

A margin is in basis points, of what the table says: shares are compared absolutely (50 basis points are half a point: 0.1% may become 0.6%),
since relative to a share that is almost none everything is harm, and times relative to the control's. The smaller the margin, the longer a
gate takes, with its square: half the margin takes four times the connections. `validate_only` says how long each will take.

## What is compared

**While the step has a share of the connections**: the canary with a control that is as large, on the same nodes at the same time. Each
connection is drawn by itself, so whatever the network, the hour or the node does to one it does to the other, and a single node is
enough. Connections are measured as those of experiments are: each once, at its end or at the horizon (`horizon_s`), and none before its horizon
has passed, so that it does no harm to look at any time, and slow connections are not missing. Shares are of all connections that were begun, so what is lost
is counted. Where the revisions differ in nothing that acts before a connection is established, chance differences of the handshake's
round-trip time are taken out of times and retransmissions (CUPED).

Beside the gates it is tested whether canary and control are equally large. If they are not, one of them loses connections before they
can be measured (accepted ones are first seen when they are established), what is left is no fair comparison, and nothing passes.

**When the step has all connections** there is no control on these nodes any more. They are compared with nodes that were not reached yet, by
how much both have changed since the step began (difference in differences). So what stays different between nodes cancels, and so does what
changes for all. Nodes are the units there, not their connections, of which a node's may all be slow for the same reason. A gate then needs
at least 8 nodes on either side that had connections before: with fewer, the bound by which a change is told from
chance is more than five times its own error (Student's t), so a pass is out of reach and a fail would say little. Where there are that many, all
gates have to pass; where there are not (a small wave, or the last one, which leaves no node to compare with), gates say NO DATA and the
step goes on by its time and connections: the gates have passed on half of the connections of these same nodes just before.

## How sure that is

- **FAIL**: the probability that any gate rolls back a rollout that does no harm beyond a margin is at most `false_alarm_bp` (5%) over all gates of all steps of all
  waves together, and over all looks. Each gate at each step has an equal part of it: with 5 gates and 12 steps, one in 1,200. Revisions that do no harm at all are far
  from the margin, and so hardly ever fail.
- **PASS**: the probability that a gate passes at a step though there is harm of its margin or more is at most 5% over all looks. That is not shared out: all gates have to
  pass, at each step anew, and every gate more makes a wrong pass less likely.
- Bounds are valid at every look together (asymptotic confidence sequences, one-sided), so that it does not matter how often or when one looks. Before 100 connections
  on both sides (of shares) or 300 (of times and segments) they say nothing.
- No event among many connections is no certainty: a share's error is computed with one event more of each kind, so none of n passes where an event in three of n would not.
- What fails on `harm_at_least` (as sure as a FAIL) and passes on `harm_at_most` (as sure as a PASS) stands in every result, with the numbers of connections, and
  all of it is kept with the transition that it caused: the same evidence gives the same verdicts, byte for byte.

Of many rare events at once the **circuit breaker** in the kernel knows first: it compares bad ends (`bad_ends`) of canary and control as they come, without server and
daemon, and ends the canary on its node. It asks whether there is *any* harm, at its own level (`breaker_ppm`, one in a thousand), and a trip fails the rollout. Gates ask
for harm beyond the margin, on all nodes together, of more than failures.

## A/A first

With `aa_first` the first step runs with what everyone has in both shares. What they differ by then is a fault of the measuring or of the nodes: a gate fails if they
differ at all, in either direction, and passes if harm and gain beyond the margin are excluded. So it also says whether the gates can pass at the present traffic.

## Before it starts

`sockpilot rollout preview` (`validate_only` of `CreateRollout`) names the nodes of each wave, says in what the revisions differ, which share of the fleet's connections would get
something else once everyone has the revision, and how long each gate takes. The share is what `simulate` says of the last hour's recorded connections, with limits that
hold the true one 95 times in 100; where none was recorded, it is not known.

**Obstacles** refuse a start, all of them at once, each with its remedy:

- a **freeze window** of the settings, in its own time zone. One that begins later holds the next step back; what runs stays where it is, and going back is never frozen;
- a **lock**: another rollout under way changes the same parameter on some of the same nodes, so neither could be told from the other;
- `max_nodes_bp`: with one of its waves, but the last, more of all nodes would have a revision that is not through, counted over all rollouts;
- `max_failure_domain_bp`: one of its waves, but the last, would have more of the nodes with one value of `failure_domain_label` (a single node is always allowed);
- `max_flows_bp`: one of its steps, but the last, would change more of the fleet's connections: those that it touches on nodes of earlier waves, and the step's share of those
  on nodes of its own. The estimate counts, not its limits. A plan of a single step is held to it too. Where no connection was recorded in the last hour it holds nothing
  back, and a warning says so.

**Warnings** forbid nothing, and stand with the rollout until it is over: nodes that are not connected, nodes whose kernels cannot honour the revision (and why), gates that cannot
pass before the deadline at the present traffic or have no connections to judge, limits that could not be looked at, and of a draft what would keep it from starting now.

**Breaking the glass** (`--break-glass` with a reason) goes past all obstacles and past a missing approval, in all steps of this rollout from then on. Who did it, why
and when stands with the rollout, in its history and in the audit log. Gates, the circuit breaker and refusals of nodes hold all the same.

## While it runs

`sockpilot rollout watch` shows waves with their nodes by state, the gates with their intervals, what is awaited, and how many connections are still open **under earlier
revisions** on its nodes: a connection keeps what was decided when it began. Nodes count them when they look at all open connections (every ten seconds), by the revision
that decided about each; the oldest look is named, and so is the number of nodes that do not say. Connections younger than the time between two looks are not counted, and while a
step has a share of the connections, those of its control are of the earlier revision rightly. It goes on being counted after the rollout is completed.

What a single connection on such a node is (`canary`, `control`, or neither), `sockpilot explain` says.

Every change of state, place or phase is a transition (`sockpilot rollout history --evidence`): who (a person, or `controllers/rollouts`), why, with the reason that a person
gave, and what it was decided on. What people ask, and what changes who has which revision, is in the audit log too: `sockpilot audit rollouts/NAME`.

## Backups

Plans that somebody has made or changed and the settings are in a backup. Rollouts are not: one that was under way is named in it and in the answer to restoring it, and is not revived,
because what it was judged on is gone. What everyone has is restored, what it had given to a part of the nodes is not; it is begun anew.

## Metrics

Sizes are what a connection sent until it was measured. A change that slows connections down so much that they send less until the horizon moves them to a smaller class;
`completion_time` has all of them. A gate on what a service has no connections of (`handshake_time` where nodes only accept) has no data, and does not pass.

| metric | margin | of | in default plans | what it is |
|---|---|---|---|---|
";

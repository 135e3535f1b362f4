//! Begins rollouts.

use serde_json::Value;
use sockpilot_policy::model::{LayerKind, LayerName};
use sockpilot_proto::v1;
use sockpilot_rollout::{
    defaults,
    machine::{Machine, State},
    plan::Plan,
    verb::{Verb, ask},
};

use super::{
    drive::{asks, carry_out, drive, transition},
    limits,
    plans::read_stored,
    record::{COLLECTION, Rollout, RolloutPlan, digest},
};
use crate::{
    change::{
        apply::{Change, Sent, apply},
        author::Author,
        bounds,
        difference::Difference,
        notes::Notes,
        plan::{Action, Assignment, ChangeRefusal},
        target::Target,
    },
    store::{Error, Result, assignment, audit, connection::PgConnection, control, layer, node, rollout, rollout_plan},
};

/// How a rollout is to go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// `rolloutPlans/{plan}`; empty: the fleet's default.
    pub plan: String,
    /// Not started yet.
    pub draft: bool,
    /// Goes back unless it is confirmed within that long.
    pub confirm_within_s: Option<i64>,
    /// Past freeze windows, locks and limits.
    pub break_glass: bool,
    /// Of its waves and shares: random.
    pub salt: String,
}

impl Options {
    /// Whether a rollout by a plan starts at once.
    fn starts(&self, plan: &RolloutPlan) -> bool {
        !self.draft && !plan.plan.needs_approval
    }
}

/// What is in force of a policy.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub everyone: Option<u64>,
    pub has_canary: bool,
}

impl Held {
    /// Reads it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn of(conn: &mut PgConnection, policy: &LayerName) -> Result<Self> {
        let held = assignment::in_force(conn, policy).await?;
        Ok(Self {
            everyone: held.iter().find(|held| held.target == Target::Everyone).map(|held| held.revision),
            has_canary: held.iter().any(|held| matches!(held.target, Target::Canary(_))),
        })
    }
}

/// Characters of a policy's id in the name of a rollout.
const ID_CHARS_MAX: usize = 40;
/// Rollouts of one revision.
const AGAIN_MAX: usize = 1_000;

/// Stores a policy and begins a rollout of it, or finds the one that is under way. Says what is to be known, and which.
///
/// # Errors
/// If the state or a limit forbids it, or the database fails.
pub async fn of_change(
    conn: &mut PgConnection,
    author: &Author,
    change: Stored<'_>,
    options: &Options,
) -> Result<(Notes, Option<Rollout>)> {
    control::lock(&mut *conn).await?;
    let Stored { name, etag, sent, creates, allow_missing } = change;
    let plan = plan(&mut *conn, &options.plan).await?;
    let held = Held::of(&mut *conn, name).await?;
    // Where the first step is all that there is, policy and step are one change.
    let target = if options.starts(&plan) && plan.plan.is_immediate(plan.plan.first()) {
        Target::Everyone
    } else {
        Target::Nobody
    };
    let action = match creates {
        true => Action::Create { target },
        false => Action::Update { target, adds: false, allow_missing },
    };
    let change = Change { name: name.clone(), action, etag: etag.to_owned(), sent: Some(sent.clone()) };
    let mut notes = apply(&mut *conn, author, &change).await?.notes;
    let object = layer::object(&mut *conn, name).await?.ok_or_else(|| Error::NotFound { name: name.to_string() })?;
    let revision = object.latest_revision.cast_unsigned();
    let begun = begin_of(&mut *conn, author, (name, revision), (plan, held), options).await?;
    // What was given at once has said so already.
    if notes.reach.is_none() {
        let document = layer::document(&mut *conn, name, Some(revision)).await?;
        notes.reach(&Assignment { revision, target: Target::Everyone }, &document, &node::seen(conn).await?);
    }
    Ok((notes, begun))
}

/// A policy that is to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    pub name: &'a LayerName,
    pub etag: &'a str,
    pub sent: &'a Sent,
    /// There must be none of this name.
    pub creates: bool,
    pub allow_missing: bool,
}

/// Begins a rollout of a stored revision. Answers with the one that is under way if it is of this revision, and with nothing if everyone has
/// the revision already.
///
/// # Errors
/// If the state or a limit forbids it, or the database fails.
pub async fn begin(
    conn: &mut PgConnection,
    author: &Author,
    policy: &LayerName,
    revision: u64,
    options: &Options,
) -> Result<Option<Rollout>> {
    control::lock(&mut *conn).await?;
    if policy.kind != LayerKind::Policy {
        return refuse(policy, "is no policy; an experiment is started, not rolled out");
    }
    let plan = plan(&mut *conn, &options.plan).await?;
    let held = Held::of(&mut *conn, policy).await?;
    let begun = begin_of(&mut *conn, author, (policy, revision), (plan, held), options).await?;
    if let Some(begun) = &begun {
        note(conn, author, "CreateRollout", None, begun).await?;
    }
    Ok(begun)
}

async fn begin_of(
    conn: &mut PgConnection,
    author: &Author,
    (policy, revision): (&LayerName, u64),
    (plan, held): (RolloutPlan, Held),
    options: &Options,
) -> Result<Option<Rollout>> {
    bounds::check(&mut *conn, author, policy, None, [revision]).await?;
    let running = rollout::running(&mut *conn, policy).await?;
    let goes_on = |rollout: &Rollout| rollout.revision == revision && rollout.machine.state != State::RollingBack;
    if let Some(running) = running.filter(goes_on) {
        return Ok(Some(running));
    }
    if held.everyone == Some(revision) && !held.has_canary {
        return Ok(None);
    }
    let document = layer::document(&mut *conn, policy, Some(revision)).await?;
    let now_s = control::now(&mut *conn).await?.timestamp();
    let draft = Rollout {
        name: free_name(&mut *conn, policy, revision).await?,
        version: 1,
        policy: policy.clone(),
        revision,
        good_revision: held.everyone.filter(|everyone| *everyone != revision),
        machine: machine(&plan.plan, now_s, options),
        digest: digest(policy, revision, &document.encode(), &plan.message),
        plan,
        salt: options.salt.clone(),
        step_generation: 0,
        reason: "it was made".to_owned(),
        gates: vec![],
        creator: author.actor(),
        approver: String::new(),
        glass: None,
        created_at: chrono::DateTime::default(),
        ended_at: None,
    };
    rollout::insert(&mut *conn, &draft).await?;
    let made = rollout::get(&mut *conn, &draft.name).await?;
    rollout::note(&mut *conn, &made.name, &transition(&made, &made, author, None)).await?;
    if !options.starts(&made.plan) {
        return Ok(Some(made));
    }
    start(conn, author, made, held.everyone, options.break_glass).await.map(Some)
}

fn named<'a>(asked: &'a str, default: &'a str) -> &'a str {
    match (asked, default) {
        ("", "") => defaults::DEFAULT,
        ("", default) => default,
        (asked, _) => asked,
    }
}

fn machine(plan: &Plan, now_s: i64, options: &Options) -> Machine {
    let confirm_by_s = options.confirm_within_s.map(|within_s| now_s + within_s);
    Machine { confirm_by_s, ..Machine::draft(plan, now_s) }
}

fn refuse<T>(policy: &LayerName, why: &str) -> Result<T> {
    let refusal = ChangeRefusal::State(why.to_owned());
    Err(Error::Refused { name: policy.to_string(), refusal })
}

/// `rollouts/web-7`, and after that `rollouts/web-7-2`.
async fn free_name(conn: &mut PgConnection, policy: &LayerName, revision: u64) -> Result<String> {
    let id: String = policy.id.as_str().chars().take(ID_CHARS_MAX).collect();
    let id = id.trim_end_matches('-');
    for again in 1..=AGAIN_MAX {
        let name = match again {
            1 => format!("{COLLECTION}{id}-{revision}"),
            again => format!("{COLLECTION}{id}-{revision}-{again}"),
        };
        if !rollout::exists(&mut *conn, &name).await? {
            return Ok(name);
        }
    }
    refuse(policy, "this revision was rolled out too often; store another one")
}

/// Starts a draft, where everyone has `everyone`: whatever else is on its way with the policy is superseded.
///
/// # Errors
/// If the state or a limit forbids it, or the database fails.
pub async fn start(
    conn: &mut PgConnection,
    author: &Author,
    draft: Rollout,
    everyone: Option<u64>,
    break_glass: bool,
) -> Result<Rollout> {
    control::lock(&mut *conn).await?;
    let now_s = control::now(&mut *conn).await?.timestamp();
    let draft =
        if break_glass { draft.with_broken_glass(author, now_s) } else { unhindered(&mut *conn, draft).await? };
    let before = supersede(&mut *conn, author, &draft.policy, &format!("{} took its place", draft.name)).await?;
    if let Some(before) = before.as_ref().filter(|before| everyone != Some(before.revision)) {
        // An A/A has no canary that would take its place.
        let action = Action::Withdraw { revision: before.revision, good: None };
        let change = Change { name: draft.policy.clone(), action, etag: String::new(), sent: None };
        apply(&mut *conn, author, &change).await?;
    }
    // Of one that gave everyone its revision and was not finished, what was good before it.
    let good = before.map_or(everyone, |before| before.good_revision);
    let good_revision = good.filter(|good| *good != draft.revision);
    let confirm_by_s = draft.machine.confirm_by_s.map(|by_s| now_s + (by_s - draft.machine.state_s));
    let draft = Rollout { good_revision, ..draft };
    let asked = ask(&draft.plan.plan, &draft.machine, Verb::Start, now_s, false);
    let asked = asked.map_err(|refused| refusal(&draft.name, refused.0))?;
    let Some(mut made) = asked else { return Ok(draft) };
    made.to.confirm_by_s = confirm_by_s;
    if break_glass {
        made.reason = format!("{}, {PAST_ALL}", made.reason);
    }
    let started = carry_out(&mut *conn, author, draft, &made, None).await?;
    drive(conn, Some(author), started).await
}

/// What broken glass means, in words.
pub const PAST_ALL: &str = "past freeze windows, locks and limits";

/// A draft that nothing keeps from starting.
async fn unhindered(conn: &mut PgConnection, draft: Rollout) -> Result<Rollout> {
    let violations = limits::obstacles(conn, &draft).await?;
    if violations.is_empty() { Ok(draft) } else { Err(Error::Forbidden { name: draft.name, violations }) }
}

/// Why a verb makes no sense.
#[must_use]
pub fn refusal(name: &str, why: String) -> Error {
    Error::Forbidden { name: name.to_owned(), violations: vec![("STATE", why)] }
}

/// Ends what is on its way with a policy, because something else takes its place. Answers with it, if there was one.
///
/// # Errors
/// If the database fails.
pub async fn supersede(
    conn: &mut PgConnection,
    author: &Author,
    policy: &LayerName,
    why: &str,
) -> Result<Option<Rollout>> {
    // Before it is read: the controller may be about to have it go on.
    control::lock(&mut *conn).await?;
    let Some(running) = rollout::running(&mut *conn, policy).await? else { return Ok(None) };
    let now_s = control::now(&mut *conn).await?.timestamp();
    let machine = Machine { state: State::Superseded, state_s: now_s, ..running.machine };
    let mut ended = Rollout { machine, reason: why.to_owned(), ..running.clone() };
    ended.version = rollout::update(&mut *conn, &ended).await?;
    rollout::note(&mut *conn, &ended.name, &transition(&running, &ended, author, None)).await?;
    if asks(&running) != asks(&ended) {
        control::bump(conn).await?;
    }
    Ok(Some(running))
}

/// An entry of the audit log about a rollout, as it was (nothing: it was not there) and as it is.
///
/// # Errors
/// If the database fails.
pub async fn note(
    conn: &mut PgConnection,
    author: &Author,
    method: &str,
    before: Option<&Rollout>,
    after: &Rollout,
) -> Result<()> {
    let difference = Difference::between(&before.map_or(Value::Null, Rollout::shown), &after.shown());
    audit::note(conn, author, method, (&after.name, after.revision.cast_signed()), difference).await
}

/// What nodes would do by a plan, as it would be stored with a rollout: for a preview.
///
/// # Errors
/// If there is no such plan, or the database fails.
pub async fn plan(conn: &mut PgConnection, asked: &str) -> Result<RolloutPlan> {
    let settings = rollout_plan::settings(&mut *conn).await?;
    let plan: v1::RolloutPlan = rollout_plan::get(conn, named(asked, &settings.message.default_plan)).await?;
    read_stored(&plan).map_err(|faults| Error::corrupt(&plan.name, faults))
}

//! What people ask of a rollout.

use sockpilot_rollout::{
    machine::State,
    verb::{Verb, ask},
};

use super::{
    begin::{Held, PAST_ALL, note, refusal, start},
    drive::{carry_out, drive, transition},
    record::Rollout,
};
use crate::{
    change::{author::Author, bounds},
    store::{Error, Result, connection::PgConnection, control, rollout},
};

/// A request about one rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `rollouts/{rollout}`
    pub name: String,
    /// Of what was read; empty: not compared.
    pub etag: String,
    pub verb: Verb,
    /// Of a start: past freeze windows, locks and limits.
    pub break_glass: bool,
}

fn method(verb: Verb) -> &'static str {
    match verb {
        Verb::Start => "StartRollout",
        Verb::Pause => "PauseRollout",
        Verb::Resume => "ResumeRollout",
        Verb::Promote { .. } => "PromoteRollout",
        Verb::Jump { .. } => "JumpRollout",
        Verb::Confirm => "ConfirmRollout",
        Verb::RollBack => "RollBackRollout",
    }
}

/// Does what is asked, and has the rollout go on from there.
///
/// # Errors
/// If it makes no sense, somebody else was faster, or the database fails.
pub async fn apply(conn: &mut PgConnection, author: &Author, request: &Request) -> Result<Rollout> {
    control::lock(&mut *conn).await?;
    let Request { name, etag, verb, break_glass } = request;
    let rollout = rollout::get(&mut *conn, name).await?;
    bounds::check(&mut *conn, author, &rollout.policy, None, [rollout.revision]).await?;
    if !etag.is_empty() && *etag != rollout.etag() {
        return Err(Error::Overtaken { name: name.clone() });
    }
    if *verb == Verb::Start && rollout.machine.state == State::Draft {
        if rollout.plan.plan.needs_approval && rollout.approver.is_empty() && !break_glass {
            let why =
                "its plan asks for the approval of somebody else; have it approved, or break the glass with a reason";
            return Err(Error::Forbidden { name: name.clone(), violations: vec![("APPROVAL", why.to_owned())] });
        }
        let held = Held::of(&mut *conn, &rollout.policy).await?;
        // Not before: of many that are asked at once, each may be refused, and nothing of it is to be in the log.
        let started = start(&mut *conn, author, rollout.clone(), held.everyone, *break_glass).await?;
        note(conn, author, method(*verb), Some(&rollout), &started).await?;
        return Ok(started);
    }
    if *verb == Verb::RollBack
        && matches!(rollout.machine.state, State::Completed | State::RollbackFailed)
        && let Some(other) = rollout::running(&mut *conn, &rollout.policy).await?
    {
        return Err(refusal(name, format!("{} is on its way with the same policy; roll that back first", other.name)));
    }
    let stands = rollout.machine.state == State::Completed
        && Held::of(&mut *conn, &rollout.policy).await?.everyone == Some(rollout.revision);
    let now_s = control::now(&mut *conn).await?.timestamp();
    let asked = ask(&rollout.plan.plan, &rollout.machine, *verb, now_s, stands);
    let Some(made) = asked.map_err(|refused| refusal(name, refused.0))? else {
        return if *break_glass { past_freeze(conn, author, rollout, now_s).await } else { Ok(rollout) };
    };
    let asked = Rollout { machine: made.to, ..rollout.clone() };
    note(&mut *conn, author, method(*verb), Some(&rollout), &asked).await?;
    let after = carry_out(&mut *conn, author, rollout, &made, None).await?;
    drive(conn, Some(author), after).await
}

/// Has what runs go past freeze windows from now on: first of all, begins the step that one holds.
async fn past_freeze(conn: &mut PgConnection, author: &Author, rollout: Rollout, now_s: i64) -> Result<Rollout> {
    if rollout.glass.is_some() {
        return Ok(rollout);
    }
    let mut broken =
        Rollout { reason: format!("it goes {PAST_ALL}"), ..rollout.clone() }.with_broken_glass(author, now_s);
    broken.version = rollout::update(&mut *conn, &broken).await?;
    rollout::note(&mut *conn, &broken.name, &transition(&rollout, &broken, author, None)).await?;
    note(&mut *conn, author, method(Verb::Start), Some(&rollout), &broken).await?;
    drive(conn, Some(author), broken).await
}

/// Approves a draft, by somebody else than who made it.
///
/// # Errors
/// If the content has changed, it is no draft, or the same person has made it; or if the database fails.
pub async fn approve(conn: &mut PgConnection, author: &Author, name: &str, digest: &[u8]) -> Result<Rollout> {
    control::lock(&mut *conn).await?;
    let rollout = rollout::get(&mut *conn, name).await?;
    bounds::check(&mut *conn, author, &rollout.policy, None, [rollout.revision]).await?;
    if rollout.digest != digest {
        return Err(Error::Overtaken { name: name.to_owned() });
    }
    let forbid = |why: &str| Error::Forbidden { name: name.to_owned(), violations: vec![("APPROVAL", why.to_owned())] };
    if rollout.machine.state != State::Draft {
        return Err(refusal(name, format!("it is {}; only a draft is approved", rollout.machine.state.word())));
    }
    if rollout.creator == author.actor() {
        return Err(forbid("it was made by the same person; somebody else must approve it"));
    }
    let mut approved = Rollout { approver: author.actor(), reason: "it was approved".to_owned(), ..rollout.clone() };
    approved.version = rollout::update(&mut *conn, &approved).await?;
    rollout::note(&mut *conn, &approved.name, &transition(&rollout, &approved, author, None)).await?;
    note(&mut *conn, author, "ApproveRollout", Some(&rollout), &approved).await?;
    Ok(approved)
}

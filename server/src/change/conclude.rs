//! Concludes an experiment: stops it, notes its verdict, and makes what an arm sets the first rule of a policy.

use serde_json::json;
use sockpilot_policy::model::{LayerKind, LayerName};
use sockpilot_proto::v1::{self, VerdictKind};

use super::{
    apply::{Beside, Change, Sent, apply},
    author::Author,
    bounds,
    difference::Difference,
    document::Document,
    plan::{Action, ChangeRefusal},
    target::Target,
};
use crate::{
    experiment::draw::draw,
    store::{Error, Result, audit, connection::PgConnection, control, experiment, layer, same_etag},
};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Conclusion {
    pub name: LayerName,
    pub etag: String,
    /// What is shipped, and the policy that gets it.
    pub ship: Option<(String, LayerName)>,
    /// Although the verdict does not say so.
    pub force: bool,
}

/// Concludes it. Answers with the experiment, the policy's new revision, and the verdict.
///
/// # Errors
/// If the verdict speaks against it, there is no such arm, or the database fails.
pub async fn conclude(
    conn: &mut PgConnection,
    author: &Author,
    conclusion: &Conclusion,
) -> Result<v1::ConcludeExperimentResponse> {
    let Conclusion { name, etag, ship, force } = conclusion;
    let refused = |why: String| Error::Refused { name: name.to_string(), refusal: ChangeRefusal::State(why) };
    bounds::check(&mut *conn, author, name, None, []).await?;
    let run = experiment::run(&mut *conn, name, 0).await?;
    let (results, verdict) = draw(&mut *conn, name, true).await?;
    let drawn = results.verdict.unwrap_or_default();
    if let Some((arm, _)) = ship
        && !(drawn.kind() == VerdictKind::Ship && drawn.arm == *arm)
        && !force
    {
        let kind = drawn.kind().as_str_name().trim_start_matches("VERDICT_KIND_");
        return Err(refused(format!(
            "the verdict is {kind}, not to ship {arm}; force it and say why, or let it run on"
        )));
    }
    let Some(run) = run else {
        return Err(refused("it never ran; delete it instead".to_owned()));
    };
    let revision = run.revision.cast_unsigned();
    if run.until_s.is_none() {
        let action = Action::Assign { revision, target: Target::Nobody, adds: false, force: false };
        let change = Change { name: name.clone(), action, etag: etag.clone(), sent: None };
        apply(&mut *conn, author, &change).await?;
    } else {
        touch(&mut *conn, name, etag).await?;
    }
    let policy = match ship {
        None => None,
        Some((arm, policy)) => Some(ship_arm(&mut *conn, author, (name, revision, arm), policy).await?),
    };
    let object = layer::object(&mut *conn, name).await?.ok_or_else(|| Error::NotFound { name: name.to_string() })?;
    let shipped = ship.as_ref().map_or("", |(arm, _)| arm.as_str());
    experiment::conclude(&mut *conn, name, object.uid, shipped).await?;
    let difference =
        Difference::between(&json!({ "concluded": false }), &json!({ "concluded": true, "shippedArm": shipped }));
    audit::note(&mut *conn, author, "ConcludeExperiment", (&name.to_string(), run.revision), difference).await?;
    let experiment = match layer::document(conn, name, None).await? {
        Document::Experiment(experiment) => Some(experiment),
        Document::Policy(_) => None,
    };
    Ok(v1::ConcludeExperimentResponse { experiment, policy, verdict })
}

/// Nothing is to be stopped; it is a change all the same, and somebody else may have been faster.
async fn touch(conn: &mut PgConnection, name: &LayerName, etag: &str) -> Result<()> {
    control::lock(&mut *conn).await?;
    let object = layer::object(&mut *conn, name).await?.ok_or_else(|| Error::NotFound { name: name.to_string() })?;
    same_etag(&name.to_string(), etag, &object.etag())?;
    layer::touch(conn, name, object.latest_revision, false).await
}

/// An ordinary change of the policy: another revision, for nobody yet.
async fn ship_arm(
    conn: &mut PgConnection,
    author: &Author,
    (name, revision, arm): (&LayerName, u64, &str),
    policy: &LayerName,
) -> Result<v1::Policy> {
    let refused = |why: String| Error::Refused { name: name.to_string(), refusal: ChangeRefusal::State(why) };
    let Document::Experiment(experiment) = layer::document(&mut *conn, name, Some(revision)).await? else {
        return Err(Error::NotFound { name: name.to_string() });
    };
    let found = experiment.arms.iter().find(|found| found.name == arm);
    let found = found.ok_or_else(|| refused(format!("has no arm {arm}; name one of its arms")))?;
    if found.withholds || found.set.as_ref().is_none_or(|set| *set == v1::Parameters::default()) {
        return Err(refused(format!(
            "arm {arm} sets nothing, so there is no rule to be made of it; conclude without an arm"
        )));
    }
    let rule = v1::Rule {
        name: rule_name(&name.id.to_string(), arm),
        r#match: experiment.r#match.clone(),
        set: found.set.clone(),
        if_unsupported: experiment.if_unsupported,
        apply_to: v1::ApplyTo::Unspecified.into(),
    };
    let exists = layer::object(&mut *conn, policy).await?.is_some_and(|object| !object.deleted);
    let (document, action) = if exists {
        let Document::Policy(before) = layer::document(&mut *conn, policy, None).await? else {
            return Err(Error::NotFound { name: policy.to_string() });
        };
        let others = before.rules.iter().filter(|other| other.name != rule.name).cloned();
        let rules = std::iter::once(rule.clone()).chain(others).collect();
        let action = Action::Update { target: Target::Nobody, adds: false, allow_missing: false };
        (v1::Policy { rules, ..before }, action)
    } else {
        let description = format!("Made of arm {arm} of {name}@{revision}.");
        let (priority, node_labels) = (experiment.priority, experiment.node_labels.clone());
        let policy = v1::Policy { description, priority, node_labels, rules: vec![rule], ..v1::Policy::default() };
        (policy, Action::Create { target: Target::Nobody })
    };
    let document = Document::Policy(document).to_be_stored(&policy.to_string());
    let sent = Some(Sent { document, beside: Beside::default() });
    apply(&mut *conn, author, &Change { name: policy.clone(), action, etag: String::new(), sent }).await?;
    match layer::document(conn, policy, None).await? {
        Document::Policy(policy)
            if policy.name.parse::<LayerName>().is_ok_and(|name| name.kind == LayerKind::Policy) =>
        {
            Ok(policy)
        }
        _ => Err(Error::NotFound { name: policy.to_string() }),
    }
}

/// At most as long as a name may be.
fn rule_name(experiment: &str, arm: &str) -> String {
    let whole = format!("{experiment}-{arm}");
    if whole.len() <= 63 { whole } else { arm.to_owned() }
}

//! How experiments are started, stopped, concluded and asked for results.

use sockpilot_judge::{
    Evidence, freeze,
    power::{self, PowerQuestion},
};
use sockpilot_outcomes::Sums;
use sockpilot_policy::{
    fault::Collector,
    model::{LayerKind, LayerName},
};
use sockpilot_proto::{convert::experiment_from_proto, v1};
use tonic::Status;

use super::{
    Api,
    assignment::forced,
    call::{Call, Common},
    error::{invalid, invalid_field, of_store},
    paging::Page,
};
use crate::{
    change::{conclude::Conclusion, document::Document, plan::Action, target::Target},
    experiment::gather,
    outcome::query::Filter,
    store::{experiment, layer, outcome},
};

/// How long before now a policy's outcomes are looked at.
const DAY_S: i64 = 86_400;

/// Reads the name of an experiment.
fn experiment_name(field: &str, name: &str, faults: &mut Collector) -> Option<LayerName> {
    let read = faults.field(field, |faults| faults.take(name.parse::<LayerName>()));
    if read.as_ref().is_some_and(|read| read.kind != LayerKind::Experiment) {
        faults.add_at(field, format!("{name} is no experiment; write experiments/NAME"));
    }
    read
}

fn name_alone(name: &str) -> Result<LayerName, Status> {
    let mut faults = Collector::at("");
    let read = experiment_name("name", name, &mut faults);
    let read = faults.finish(read).map_err(|faults| invalid(&faults))?;
    read.ok_or_else(|| invalid_field("name", "is missing"))
}

/// Gives an epoch to everyone or to nobody.
pub(super) async fn assign(
    api: &Api,
    call: Call,
    name: &str,
    (revision, target): (u64, Target),
    common: Common,
) -> Result<v1::LayerStatus, Status> {
    let mut faults = Collector::at("");
    let name = experiment_name("name", name, &mut faults);
    let action = Action::Assign { revision, target, adds: false, force: false };
    call.finish(api, name, action, None, common, faults).await
}

/// The epoch that runs; if the request may have been answered before, the one that ran last.
pub(super) async fn running(api: &Api, name: &str, may_be_again: bool) -> Result<u64, Status> {
    let name = name_alone(name)?;
    let named = name.to_string();
    let read = api.store.read("look for the running epoch", |conn| {
        Box::pin(async move {
            layer::document(&mut *conn, &name, None).await?;
            experiment::run(conn, &name, 0).await
        })
    });
    let run = read.await.map_err(of_store)?.filter(|run| may_be_again || run.until_s.is_none());
    let run =
        run.ok_or_else(|| Status::failed_precondition(format!("{named} does not run; there is nothing to stop")))?;
    Ok(run.revision.cast_unsigned())
}

/// Reads what is asked for.
pub(super) fn conclusion(
    name: &str,
    (ship_arm, policy): (String, &str),
    (force, reason): (bool, &str),
    faults: &mut Collector,
) -> Option<Conclusion> {
    let name = experiment_name("name", name, faults);
    forced(force, reason, faults);
    let policy = if policy.is_empty() { None } else { faults.field("policy", |faults| layer_name_at(policy, faults)) };
    if policy.as_ref().is_some_and(|policy| policy.kind != LayerKind::Policy) {
        faults.add_at("policy", "is no policy; write policies/NAME");
    }
    if policy.is_none() && !ship_arm.is_empty() {
        faults.add_at("policy", "is missing; write policies/NAME, which gets the arm as a rule");
    }
    let ship = policy.filter(|_| !ship_arm.is_empty()).map(|policy| (ship_arm, policy));
    Some(Conclusion { name: name?, etag: String::new(), ship, force })
}

fn layer_name_at(name: &str, faults: &mut Collector) -> Option<LayerName> {
    faults.take(name.parse())
}

/// What is known of an epoch.
pub(super) async fn evidence(api: &Api, name: &str, revision: u64) -> Result<v1::Evidence, Status> {
    let name = name_alone(name)?;
    let read = api
        .store
        .read("gather evidence", |conn| Box::pin(async move { gather::evidence(conn, &name, revision).await }));
    read.await.map_err(of_store)
}

/// The verdicts of an experiment.
pub(super) async fn verdicts(api: &Api, message: v1::ListVerdictsRequest) -> Result<v1::ListVerdictsResponse, Status> {
    let v1::ListVerdictsRequest { parent, page_size, page_token } = message;
    let mut faults = Collector::at("");
    let name = experiment_name("parent", &parent, &mut faults);
    let is_number = |key: &str| key.parse::<i64>().is_ok_and(|number| number > 0);
    let page = Page::read(page_size, &page_token, &["verdicts", &parent], is_number, &mut faults);
    let (page, name) = faults.finish((page, name)).map_err(|faults| invalid(&faults))?;
    let name = name.ok_or_else(|| invalid_field("parent", "is missing"))?;
    let before = page.after.as_deref().and_then(|key| key.parse().ok());
    let limit = page.limit();
    let read = api.store.read("list verdicts", |conn| {
        Box::pin(async move {
            layer::document(&mut *conn, &name, None).await?;
            experiment::verdicts(conn, &name, before, limit).await
        })
    });
    let (found, next_page_token) = page.finish(read.await.map_err(of_store)?, |(number, _)| number.to_string());
    Ok(v1::ListVerdictsResponse { verdicts: found.into_iter().map(|(_, verdict)| verdict).collect(), next_page_token })
}

/// What it takes to find an effect.
pub(super) async fn power(api: &Api, message: v1::GetExperimentPowerRequest) -> Result<v1::ExperimentPower, Status> {
    let v1::GetExperimentPowerRequest { name, effect_bp, power_percent, policy } = message;
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let (effect_bp, power_percent) = (or(effect_bp, 500), or(power_percent, 80));
    if power_percent >= 100 {
        return Err(invalid_field("power_percent", "must be less than 100: nothing is found for sure"));
    }
    let question = PowerQuestion { effect: f64::from(effect_bp) / 10_000.0, power: f64::from(power_percent) / 100.0 };
    let message = evidence(api, &name, 0).await?;
    let evidence = Evidence::read(&message).map_err(|error| Status::internal(error.to_string()))?;
    if policy.is_empty() {
        return Ok(power::power(&evidence, question, format!("{name}@{}", message.revision)));
    }
    let about = policy.parse::<LayerName>().map_err(|error| invalid_field("policy", &error))?;
    let seen = seen(api, about, Some(DAY_S)).await?;
    let source = format!("outcomes of {policy} in the last day");
    Ok(power::power_before(&evidence.comparison, &seen, DAY_S as f64, question, source))
}

/// All outcomes of a policy or an experiment, since so many seconds.
async fn seen(api: &Api, name: LayerName, since_s: Option<i64>) -> Result<Sums, Status> {
    let filter = Filter {
        name,
        revision: 0,
        start_s: None,
        since_s,
        end_s: None,
        direction: 0,
        node_id: String::new(),
        by_size_class: false,
    };
    let read = api.store.read("sum up outcomes", |conn| Box::pin(async move { outcome::query(conn, &filter).await }));
    let found = read.await.map_err(of_store)?;
    let mut seen = Sums::default();
    found.rows.values().for_each(|sums| seen.merge(sums));
    Ok(seen)
}

/// The measures of an experiment with caps: from the outcomes of a policy (the one that is named, or that it withholds), else from its own;
/// and from what it has measured itself, as an A/A.
pub(super) async fn freeze(
    api: &Api,
    message: v1::FreezeExperimentRequest,
) -> Result<v1::FreezeExperimentResponse, Status> {
    let v1::FreezeExperimentRequest { name, policy } = message;
    let measured = evidence(api, &name, 0).await?;
    let measured = Evidence::read(&measured).map_err(|error| Status::internal(error.to_string()))?;
    let name = name_alone(&name)?;
    let named = name.clone();
    let read =
        api.store.read("read an experiment", |conn| Box::pin(async move { layer::document(conn, &named, None).await }));
    let Document::Experiment(document) = read.await.map_err(of_store)? else {
        return Err(Status::internal("something else is stored under the name of an experiment"));
    };
    let about = match policy.as_str() {
        "" => document.withholds.parse().unwrap_or(name),
        policy => policy.parse::<LayerName>().map_err(|error| invalid_field("policy", &error))?,
    };
    let seen = seen(api, about, None).await?;
    let experiment = experiment_from_proto(&document, "").map_err(|faults| invalid(&faults))?;
    Ok(freeze::freeze(&experiment.design.comparison.measures, &seen, &measured))
}

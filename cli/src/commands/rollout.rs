//! `rollout`

mod bulk;
pub mod wait;

use super::{warn, watch};
use crate::api::{Change, Verb};
use crate::args::{Approve, Create, Format, History, Jump, OneRollout, Preview, Rollout, SetDefault, Which};
use crate::client::Client;
use crate::document::{self, Document};
use crate::failure::{Failure, ServerRefusal};
use crate::name::{LayerName, RolloutName};
use crate::output::{self, print};
use crate::views::rollout::{self as view, answers, preview};
use sockpilot_proto::v1;
use tonic::Code;
use watch::Look;

/// Does what the command line says.
pub async fn run(rollout: &Rollout, client: &Client, format: Format) -> Result<(), Failure> {
    match rollout {
        Rollout::List(list) => {
            let policy = list.policy.as_ref().map(LayerName::resource).unwrap_or_default();
            let answer = client.rollouts(&policy, list.active, list.limit as usize).await?;
            print(&output::message(format, "ListRolloutsResponse", &answer, |a| answers::list(&a.rollouts)))
        }
        Rollout::Get(get) if get.watch => go_on_showing(&get.one, client, format).await,
        Rollout::Get(get) => print(&shown(&newest(&get.one.name, client).await?, format)),
        Rollout::Watch(one) => go_on_showing(one, client, format).await,
        Rollout::History(history) => show_history(history, client, format).await,
        Rollout::Preview(preview) => show_preview(preview, client, format).await,
        Rollout::Create(create) => self::create(create, client, format).await,
        Rollout::Approve(approve) => self::approve(approve, client, format).await,
        Rollout::Start(start) => {
            let asked = Asked { break_glass: start.break_glass, ..Asked::new(Verb::Start, (&start.change).into()) };
            asked.of(&start.which, client, format).await
        }
        Rollout::Pause(plain) => Asked::new(Verb::Pause, (&plain.change).into()).of(&plain.which, client, format).await,
        Rollout::Resume(plain) => {
            Asked::new(Verb::Resume, (&plain.change).into()).of(&plain.which, client, format).await
        }
        Rollout::Confirm(plain) => {
            Asked::new(Verb::Confirm, (&plain.change).into()).of(&plain.which, client, format).await
        }
        Rollout::Rollback(plain) => {
            Asked::new(Verb::RollBack, (&plain.change).into()).of(&plain.which, client, format).await
        }
        Rollout::Promote(promote) => {
            let change = Change { force: promote.force, ..(&promote.change).into() };
            Asked::new(Verb::Promote, change).of(&promote.which, client, format).await
        }
        Rollout::Jump(jump) => self::jump(jump, client, format).await,
        Rollout::SetDefault(set) => set_default(set, client, format).await,
    }
}

/// A verb with what goes with it.
struct Asked {
    verb: Verb,
    change: Change,
    /// Of start.
    break_glass: bool,
}

impl Asked {
    fn new(verb: Verb, change: Change) -> Self {
        Self { verb, change, break_glass: false }
    }

    async fn of(self, which: &Which, client: &Client, format: Format) -> Result<(), Failure> {
        match &which.name {
            Some(name) => self.of_one(name, which.etag.as_deref().unwrap_or_default(), client, format).await,
            None => bulk::run(self.verb, which, &self.change, client, format).await,
        }
    }

    async fn of_one(self, name: &RolloutName, etag: &str, client: &Client, format: Format) -> Result<(), Failure> {
        let name = match self.verb {
            // What is completed can be rolled back, too.
            Verb::RollBack => name_of_newest(name, client).await?,
            _ => name_of_active(name, client).await?,
        };
        let Self { verb, change, break_glass } = self;
        let request = v1::RolloutVerbRequest { break_glass, ..request(name, etag, &change) };
        show_changed(&client.do_to_rollout(verb, request).await?, change.validate_only, format)
    }
}

async fn jump(jump: &Jump, client: &Client, format: Format) -> Result<(), Failure> {
    let change = Change { force: jump.force, ..(&jump.change).into() };
    let name = name_of_active(&jump.name, client).await?;
    let request = v1::RolloutVerbRequest { wave: jump.wave, ..request(name, &jump.etag, &change) };
    show_changed(&client.jump(request).await?, change.validate_only, format)
}

fn request(name: String, etag: &str, change: &Change) -> v1::RolloutVerbRequest {
    let Change { reason, validate_only, force } = change.clone();
    let etag = etag.to_owned();
    v1::RolloutVerbRequest { name, etag, reason, validate_only, force, ..v1::RolloutVerbRequest::default() }
}

fn show_changed(rollout: &v1::Rollout, validate_only: bool, format: Format) -> Result<(), Failure> {
    warn(&rollout.warnings);
    print(&output::message(format, "Rollout", rollout, |rollout| answers::changed(rollout, validate_only)))
}

fn shown(rollout: &v1::Rollout, format: Format) -> String {
    output::message(format, "Rollout", rollout, view::one)
}

/// The one of a policy that is not over.
async fn active(policy: &LayerName, client: &Client) -> Result<Option<v1::Rollout>, Failure> {
    let mut found = client.rollouts(&policy.resource(), true, 10).await?.rollouts;
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => {
            let names: Vec<&str> = found.iter().map(|rollout| rollout.name.as_str()).collect();
            Err(Failure::Input(format!(
                "{policy} has several rollouts that are not over: name one of {}",
                names.join(", ")
            )))
        }
    }
}

async fn name_of_active(name: &RolloutName, client: &Client) -> Result<String, Failure> {
    match name {
        RolloutName::Itself(name) => Ok(name.clone()),
        RolloutName::Of(policy) => match active(policy, client).await? {
            Some(rollout) => Ok(rollout.name),
            None => Err(none_of(policy, "no rollout that is not over")),
        },
    }
}

async fn name_of_newest(name: &RolloutName, client: &Client) -> Result<String, Failure> {
    let RolloutName::Of(policy) = name else { return name_of_active(name, client).await };
    if let Some(rollout) = active(policy, client).await? {
        return Ok(rollout.name);
    }
    let newest = client.rollouts(&policy.resource(), false, 1).await?.rollouts.pop();
    newest.map(|rollout| rollout.name).ok_or_else(|| none_of(policy, "no rollout"))
}

async fn newest(name: &RolloutName, client: &Client) -> Result<v1::Rollout, Failure> {
    client.rollout(&name_of_newest(name, client).await?).await
}

fn none_of(policy: &LayerName, what: &str) -> Failure {
    let message = format!("{policy} has {what}; see `sockpilot rollout list {policy}`");
    Failure::Refused(ServerRefusal { code: Code::NotFound, message, violations: Vec::new() })
}

async fn go_on_showing(one: &OneRollout, client: &Client, format: Format) -> Result<(), Failure> {
    let name = name_of_newest(&one.name, client).await?;
    let look = async || {
        let rollout = client.rollout(&name).await?;
        Ok(Look { text: shown(&rollout, format), is_last: view::is_over(rollout.state()) })
    };
    watch::run(look, watch::PERIOD, format).await
}

async fn show_history(history: &History, client: &Client, format: Format) -> Result<(), Failure> {
    let name = name_of_newest(&history.one.name, client).await?;
    let answer = client.transitions(&name, history.limit as usize).await?;
    print(&output::message(format, "ListRolloutTransitionsResponse", &answer, |a| {
        answers::transitions(&a.transitions, history.evidence)
    }))
}

async fn show_preview(asked: &Preview, client: &Client, format: Format) -> Result<(), Failure> {
    let options = v1::RolloutOptions { plan: asked.plan.clone().unwrap_or_default(), ..v1::RolloutOptions::default() };
    let answer = previewed(&asked.policy, options, "", client).await?;
    warn(&answer.warnings);
    print(&output::message(format, "Rollout", &answer, preview::one))
}

/// What a rollout of a stored revision would do.
pub async fn previewed(
    policy: &LayerName,
    options: v1::RolloutOptions,
    reason: &str,
    client: &Client,
) -> Result<v1::Rollout, Failure> {
    let change = Change { reason: reason.to_owned(), validate_only: true, force: false };
    client.create_rollout(policy, policy.revision.unwrap_or_default(), options, &change).await
}

async fn create(create: &Create, client: &Client, format: Format) -> Result<(), Failure> {
    let change = Change::from(&create.change);
    let revision = create.policy.revision.unwrap_or_default();
    let answer = client.create_rollout(&create.policy, revision, create.rollout.options(), &change).await?;
    if change.validate_only {
        warn(&answer.warnings);
        return print(&output::message(format, "Rollout", &answer, preview::one));
    }
    show_changed(&answer, false, format)?;
    match create.rollout.wait {
        Some(timeout) => wait::run(&[answer.name], timeout, client, format).await,
        None => Ok(()),
    }
}

async fn approve(approve: &Approve, client: &Client, format: Format) -> Result<(), Failure> {
    let name = name_of_active(&approve.name, client).await?;
    if let Some(digest) = &approve.digest {
        let change = Change::from(&approve.change);
        let answer = client.approve(&name, digest.0.clone(), &change).await?;
        return show_changed(&answer, change.validate_only, format);
    }
    let rollout = client.rollout(&name).await?;
    print(&shown(&rollout, format))?;
    if format == Format::Table {
        print(&format!("\n{}", changes(&rollout, client).await?))?;
    }
    let digest = view::hex(&rollout.digest);
    Err(Failure::Input(format!(
        "nothing is approved yet; do it with: sockpilot rollout approve {name} --digest {digest}"
    )))
}

/// What nodes would get instead of what they have, as a unified diff.
async fn changes(rollout: &v1::Rollout, client: &Client) -> Result<String, Failure> {
    let revision = async |number: u64| {
        let name: LayerName = format!("{}@{number}", rollout.policy).parse().map_err(Failure::Input)?;
        client.get(&name).await
    };
    let before = match rollout.good_revision {
        0 => None,
        good => Some(revision(good).await?),
    };
    Ok(document::diff(before.as_ref(), &revision(rollout.revision).await?))
}

async fn set_default(set: &SetDefault, client: &Client, format: Format) -> Result<(), Failure> {
    let change = Change::from(&set.change);
    // With the etag that was read: who was faster has changed something else, perhaps.
    let settings = v1::RolloutSettings { default_plan: set.plan.clone(), ..client.rollout_settings().await? };
    let answer = client.update_rollout_settings(settings, &change).await?;
    let is = if change.validate_only { "would be" } else { "is" };
    print(&output::document(format, &answer, |answer| match answer {
        Document::RolloutSettings(settings) => {
            format!("{} {is} the plan of rollouts that name none\n", crate::table::one_line(&settings.default_plan))
        }
        _ => String::new(),
    }))
}

//! One verb for many rollouts, shown first.

use crate::api::{Change, Verb};
use crate::args::{Format, Which};
use crate::client::Client;
use crate::failure::{Failure, ServerRefusal};
use crate::format::count;
use crate::name::LayerName;
use crate::output::{self, print};
use crate::views::rollout::answers;
use sockpilot_proto::v1::{BatchRolloutVerbRequest, BatchRolloutVerbResponse, RolloutVerb};
use std::io::{IsTerminal, Write};
use tonic::Code;

/// Shows what would become of each, asks, and does it; at once with `--yes`.
pub async fn run(verb: Verb, which: &Which, change: &Change, client: &Client, format: Format) -> Result<(), Failure> {
    let Change { reason, validate_only, force } = change.clone();
    let request = BatchRolloutVerbRequest {
        verb: to_proto(verb).into(),
        policies: which.policies.iter().map(LayerName::resource).collect(),
        states: which.states.iter().map(|state| state.to_proto().into()).collect(),
        force,
        reason,
        validate_only,
        request_id: String::new(),
    };
    if !validate_only && !which.yes {
        let check = BatchRolloutVerbRequest { validate_only: true, ..request.clone() };
        let preview = client.do_to_rollouts(check).await?;
        eprint!("{}", answers::results(&preview, true));
        if preview.results.is_empty() {
            return Ok(());
        }
        if !agreed()? {
            return Err(Failure::Input("nothing was changed; say --yes to do it".to_owned()));
        }
    }
    let answer = client.do_to_rollouts(request).await?;
    print(&output::message(format, "BatchRolloutVerbResponse", &answer, |a| answers::results(a, validate_only)))?;
    refused(&answer)
}

/// Whether a person at a terminal says yes.
fn agreed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("Go on? [y/N] ");
    std::io::stderr().flush().map_err(Failure::Output)?;
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.map_err(|error| Failure::Input(format!("the answer cannot be read: {error}")))?;
    Ok(["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str()))
}

fn refused(answer: &BatchRolloutVerbResponse) -> Result<(), Failure> {
    match answers::refusals(answer) {
        0 => Ok(()),
        number => {
            let message = format!("{number} of {} refused", count(answer.results.len(), "rollout"));
            Err(Failure::Refused(ServerRefusal { code: Code::FailedPrecondition, message, violations: Vec::new() }))
        }
    }
}

fn to_proto(verb: Verb) -> RolloutVerb {
    match verb {
        Verb::Start => RolloutVerb::Start,
        Verb::Pause => RolloutVerb::Pause,
        Verb::Resume => RolloutVerb::Resume,
        Verb::Promote => RolloutVerb::Promote,
        Verb::RollBack => RolloutVerb::RollBack,
        Verb::Confirm => RolloutVerb::Confirm,
    }
}

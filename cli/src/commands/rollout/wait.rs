//! Waiting for the end of rollouts.

use crate::args::Format;
use crate::client::Client;
use crate::commands::watch::PERIOD;
use crate::failure::{Failure, NotCompleted};
use crate::output::print;
use crate::table::one_line;
use crate::views::rollout as view;
use sockpilot_proto::v1::{Rollout, RolloutState};
use std::time::Duration;
use tokio::time::Instant;

/// Other words for the same step are worth a line so often.
const SAME_STEP_PERIOD: Duration = Duration::from_secs(30);

/// Waits until all of them are over or need a person, and shows on standard error how they go on; a server that goes away for a while
/// does not end it.
pub async fn run(names: &[String], timeout: Option<Duration>, client: &Client, format: Format) -> Result<(), Failure> {
    let begin = Instant::now();
    let mut waited: Vec<Waited> = names.iter().map(|name| Waited::new(name)).collect();
    loop {
        for one in waited.iter_mut().filter(|one| one.end.is_none()) {
            one.look(client).await?;
        }
        let is_over = waited.iter().all(|one| one.end.is_some());
        match timeout {
            _ if is_over => break,
            Some(timeout) if begin.elapsed() >= timeout => break,
            _ => tokio::time::sleep(PERIOD).await,
        }
    }
    report(&waited, format)
}

/// One of them.
struct Waited {
    name: String,
    rollout: Rollout,
    end: Option<End>,
    /// When something was said last, and what.
    said: Option<(Instant, String, String)>,
}

impl Waited {
    fn new(name: &str) -> Self {
        let rollout = Rollout { name: name.to_owned(), ..Rollout::default() };
        Self { name: name.to_owned(), rollout, end: None, said: None }
    }

    async fn look(&mut self, client: &Client) -> Result<(), Failure> {
        match client.rollout(&self.name).await {
            Ok(rollout) => {
                self.end = End::of(&rollout);
                if self.end.is_none() {
                    self.say(view::headline(&rollout), &rollout.reason);
                }
                self.rollout = rollout;
                Ok(())
            }
            Err(Failure::Unreachable(why)) => {
                self.say(format!("{}: {why}", self.name), "");
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    fn say(&mut self, headline: String, reason: &str) {
        let is_news = self.said.as_ref().is_none_or(|(when, said, because)| {
            *said != headline || because != reason && when.elapsed() >= SAME_STEP_PERIOD
        });
        if is_news {
            let separator = if reason.is_empty() { "" } else { ": " };
            eprintln!("{}", one_line(&format!("{headline}{separator}{reason}")));
            self.said = Some((Instant::now(), headline, reason.to_owned()));
        }
    }

    /// What it came to.
    fn line(&self) -> String {
        let Rollout { reason, .. } = &self.rollout;
        let separator = if reason.is_empty() { "" } else { ": " };
        one_line(&format!("{}{separator}{reason}", view::headline(&self.rollout)))
    }
}

/// Why there is nothing more to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Completed,
    Not(NotCompleted),
}

impl End {
    fn of(rollout: &Rollout) -> Option<Self> {
        match rollout.state() {
            RolloutState::Running | RolloutState::RollingBack | RolloutState::Unspecified => None,
            RolloutState::Completed => Some(Self::Completed),
            RolloutState::Draft | RolloutState::Paused => Some(Self::Not(NotCompleted::WaitsForPerson)),
            RolloutState::RolledBack => Some(Self::Not(NotCompleted::RolledBack)),
            RolloutState::Superseded => Some(Self::Not(NotCompleted::Superseded)),
            RolloutState::RollbackFailed => Some(Self::Not(NotCompleted::RollbackFailed)),
        }
    }
}

/// Those that completed on standard output; of the others the first says the exit code.
fn report(waited: &[Waited], format: Format) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for one in waited {
        match one.end {
            Some(End::Completed) if format == Format::Table => print(&format!("{}\n", one.line()))?,
            Some(End::Completed) => {}
            Some(End::Not(how)) => failures.push((how, one.line())),
            None => failures.push((NotCompleted::TimedOut, format!("{}; it is not over yet, and goes on", one.line()))),
        }
    }
    match failures.first() {
        None => Ok(()),
        Some((how, _)) => {
            let lines: Vec<&str> = failures.iter().map(|(_, line)| line.as_str()).collect();
            Err(Failure::Rollout(*how, lines.join("\n")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waited(state: Option<RolloutState>) -> Waited {
        let rollout = Rollout { name: "rollouts/a".to_owned(), ..Rollout::default() };
        let rollout = Rollout { state: state.unwrap_or_default().into(), reason: "so\nit is".to_owned(), ..rollout };
        Waited { end: state.and_then(|_| End::of(&rollout)), name: rollout.name.clone(), rollout, said: None }
    }

    #[test]
    fn every_end_has_an_exit_code_of_its_own() {
        for (state, code) in [
            (RolloutState::RolledBack, 4),
            (RolloutState::Paused, 5),
            (RolloutState::Draft, 5),
            (RolloutState::Superseded, 6),
            (RolloutState::Running, 7),
            (RolloutState::RollingBack, 7),
            (RolloutState::RollbackFailed, 8),
        ] {
            let failure = report(&[waited(Some(state))], Format::Json).unwrap_err();
            assert_eq!(failure.exit_code(), code, "{state:?}");
        }
        assert!(report(&[waited(Some(RolloutState::Completed))], Format::Json).is_ok());
    }

    #[test]
    fn the_first_that_did_not_complete_says_the_code_and_all_are_named() {
        let states = [RolloutState::Completed, RolloutState::Superseded, RolloutState::RolledBack];
        let all: Vec<Waited> = states.map(|state| waited(Some(state))).into();
        let failure = report(&all, Format::Json).unwrap_err();
        assert_eq!(failure.exit_code(), 6);
        assert_eq!(failure.to_string(), "rollouts/a: superseded: so it is\nrollouts/a: rolled back: so it is");
    }
}

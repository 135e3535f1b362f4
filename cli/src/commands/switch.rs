//! `off` and `on`

use crate::api::Change;
use crate::args::{Format, Off, On};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, print};
use crate::views::switches;

/// Turns it off, or shows what is off.
pub async fn off(off: &Off, client: &Client, format: Format) -> Result<(), Failure> {
    match &off.target {
        Some(target) => turn(target, true, &(&off.change).into(), client, format).await,
        None => {
            let answer = client.kill_switches().await?;
            print(&output::message(format, "ListKillSwitchesResponse", &answer, |a| switches::table(&a.kill_switches)))
        }
    }
}

/// Turns it on again.
pub async fn on(on: &On, client: &Client, format: Format) -> Result<(), Failure> {
    turn(&on.target, false, &(&on.change).into(), client, format).await
}

async fn turn(target: &str, off: bool, change: &Change, client: &Client, format: Format) -> Result<(), Failure> {
    let answer = client.switch(target, off, change).await?;
    print(&output::message(format, "KillSwitch", &answer, |answer| switches::changed(answer, change.validate_only)))
}

//! `doctor`: the whole fleet, looked at from its server.

use crate::args::Format;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::print;
use crate::views::doctor::{Fleet, checkup};

/// Of the newest.
const ROLLOUTS: usize = 100;

/// Prints what is wrong and what to do.
pub async fn run(client: &Client, format: Format) -> Result<(), Failure> {
    if format != Format::Table {
        return Err(Failure::Input(
            "doctor speaks to people only; scripts have the metrics, see docs/metrics.md".into(),
        ));
    }
    let fleet = Fleet {
        servers: client.servers().await?.servers,
        nodes: client.nodes(Default::default()).await?.nodes,
        off: client.off().await?,
        rollouts: client.rollouts("", false, ROLLOUTS).await?.rollouts,
    };
    let found = checkup(&fleet);
    print(&found.to_string())?;
    if found.is_well() { Ok(()) } else { Err(Failure::Unwell) }
}

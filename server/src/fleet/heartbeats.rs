//! One clock for the heartbeats of all streams: at every tick those whose turn it is get one, and those that were not heard of for too long
//! come to their end. A timer for each stream would wake the server as often as there are nodes.

use std::{sync::Arc, time::Duration};

use super::fanout::{Fanout, TURNS};
use crate::{
    store::Result,
    task::{Scope, Spec, Task},
};

/// A node sends something every 5 s.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// See the [module](self).
#[derive(Debug)]
pub struct Heartbeats {
    fanout: Arc<Fanout>,
    /// Between two of one stream.
    every: Duration,
    turn: u32,
}

impl Heartbeats {
    /// `every`: between two of one stream.
    #[must_use]
    pub fn new(fanout: Arc<Fanout>, every: Duration) -> Self {
        Self { fanout, every, turn: 0 }
    }
}

impl Task for Heartbeats {
    fn spec(&self) -> Spec {
        let period = self.every / TURNS;
        Spec { name: "heartbeats", period, retry_after: period, scope: Scope::Server }
    }

    async fn run(&mut self) -> Result<String> {
        self.turn = (self.turn + 1) % TURNS;
        let streams = self.fanout.beat(self.turn, SILENCE_MAX);
        Ok(format!("{streams} streams"))
    }
}

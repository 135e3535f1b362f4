//! The records of one side, whatever its layout.

use sockpilot_policy::layout::FlowRecord;

use super::{KernelError, Map, ring::Ring, sides::Side};

/// The ring buffer of one side, with what tells it from all others.
#[derive(Debug)]
pub struct Records {
    identity: String,
    ring: Ring,
}

impl Records {
    pub(super) fn open(side: &Side) -> Result<Self, KernelError> {
        let map: Map<FlowRecord> = Map::open(&side.dir, "RECORDS")?;
        Ok(Self { identity: side.identity()?, ring: Ring::open(&map)? })
    }

    /// Tells the kernel tables that the records are of from all others.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Up to where records have been taken out of the ring buffer.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.ring.position()
    }

    /// Whether there are records that have not been taken out.
    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Shows records without taking them out. Returns the position after those shown.
    pub fn peek(&mut self, max_records: usize, each: &mut dyn FnMut(&FlowRecord)) -> u64 {
        self.ring.peek(max_records, each)
    }

    /// Takes records out, up to a position.
    pub fn release(&mut self, position: u64) {
        self.ring.release(position);
    }
}

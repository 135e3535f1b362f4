//! How a kernel side comes to be: made, adopted, or made beside one of another layout, to take over from it. And how earlier ones end.
//!
//! What has happened is what [`Handover`] says, and it is said by one store. So whenever a daemon is killed, the next one, of whichever
//! layout, finds one side in charge; sides after it were never finished, and those before it serve what they have stamped.

use std::time::Duration;

use sockpilot_policy::layout::{COUNTERS, Counter, EARLIER_MAX, Handover, LAYOUT_VERSION, RELIEVED};

use super::{
    Found, Kernel, KernelError, Map, Options, links, object, pins,
    records::Records,
    sides::{self, Side},
    sys,
};

/// The side that a daemon works with, and those before it.
#[derive(Debug)]
pub(super) struct Sides {
    pub own: Side,
    /// The earliest first.
    pub earlier: Vec<Side>,
    pub found: Found,
}

/// Makes a side of this layout, or adopts it where it is in charge.
pub(super) fn prepare(options: &Options) -> Result<Sides, KernelError> {
    let mut sides = sides::list(&options.pin_dir)?;
    let handover = read(&sides)?;
    for unfinished in sides.extract_if(.., |side| side.number > handover.in_charge) {
        pins::remove(&unfinished.dir)?;
    }
    let is_ours =
        |side: &Side| side.number == handover.in_charge && side.layout == LAYOUT_VERSION && pins::complete(&side.dir);
    if let Some(own) = sides.pop_if(|last| is_ours(last)) {
        let upgraded = object::upgrade(&own, serving(&sides, handover.oldest))?;
        return Ok(Sides { own, earlier: sides, found: if upgraded { Found::Upgraded } else { Found::Adopted } });
    }
    if let Some(last) = sides.last() {
        links::refuse_other_cgroup(&last.dir, &options.cgroup)?;
    }
    let mut oldest = handover.oldest;
    if let Some(surplus) = sides.len().checked_sub(EARLIER_MAX + 1) {
        oldest = oldest.max(retire(&sides, sides[surplus].number)?);
    }
    let own = Side::of_this_layout(&options.pin_dir, handover.in_charge + 1);
    object::load_and_pin(&own, serving(&sides, oldest))?;
    let found = if sides.is_empty() { Found::Made } else { Found::Beside };
    Ok(Sides { own, earlier: sides, found })
}

/// The side of this layout, if it is in charge and was made completely.
pub(super) fn in_charge(options: &Options) -> Result<Option<Sides>, KernelError> {
    let mut sides = sides::list(&options.pin_dir)?;
    let number = read(&sides)?.in_charge;
    sides.retain(|side| side.number <= number);
    let own = sides.pop_if(|last| last.number == number && last.layout == LAYOUT_VERSION && pins::complete(&last.dir));
    Ok(own.map(|own| Sides { own, earlier: sides, found: Found::Adopted }))
}

/// Those that still serve connections.
fn serving(sides: &[Side], oldest: u32) -> &[Side] {
    &sides[sides.partition_point(|side| side.number < oldest)..]
}

/// All sides pin the same map. Zeros, if there is none.
fn map(sides: &[Side]) -> Result<Option<Map<Handover>>, KernelError> {
    let pinned = sides.iter().find(|side| side.dir.join("HANDOVER").exists());
    pinned.map(|side| Map::open(&side.dir, "HANDOVER")).transpose()
}

fn read(sides: &[Side]) -> Result<Handover, KernelError> {
    map(sides)?.map_or(Ok(Handover::default()), |map| map.get(0))
}

/// Has all sides up to one serve nothing any more: first nobody heeds what they have stamped, then nothing runs them. Returns the first that
/// still serves.
fn retire(sides: &[Side], number: u32) -> Result<u32, KernelError> {
    let oldest = number + 1;
    if let Some(map) = map(sides)? {
        let handover = map.get(0)?;
        map.set_checked(0, &Handover { oldest: handover.oldest.max(oldest), ..handover })?;
    }
    for side in sides.iter().take_while(|side| side.number <= number) {
        for link in pins::links(&side.dir)? {
            pins::remove_pin(&link)?;
        }
        pins::remove_pin(&side.dir.join(pins::OPEN_FLOW))?;
    }
    Ok(oldest)
}

/// An earlier side: it serves what it has stamped.
#[derive(Debug)]
pub(super) struct Earlier {
    side: Side,
    records: Records,
    counts: Map<[u64; COUNTERS]>,
}

impl Earlier {
    /// Nothing, and no pins any more, if it was about to be removed.
    pub(super) fn open(side: Side) -> Result<Option<Self>, KernelError> {
        if !["RECORDS", "COUNTS"].iter().all(|name| side.dir.join(name).exists()) {
            pins::remove(&side.dir)?;
            return Ok(None);
        }
        let (records, counts) = (Records::open(&side)?, Map::open(&side.dir, "COUNTS")?);
        Ok(Some(Self { side, records, counts }))
    }
}

/// How far an earlier side has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draining {
    /// Which one.
    pub number: u32,
    /// Of its tables.
    pub layout: u32,
    /// As [`Records::identity`].
    pub identity: String,
    /// Connections that it has stamped and that have not ended.
    pub open: u64,
    /// Records that it could not write.
    pub dropped: u64,
    /// Records that have been written and not taken out.
    pub unread: bool,
    /// For how long another one has decided.
    pub relieved_for: Duration,
    /// Nothing runs it any more; it waits for its records to be read.
    pub retired: bool,
}

impl Kernel {
    /// Whether this side decides new connections. One that was made beside another does once its tables are filled.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn is_in_charge(&self) -> Result<bool, KernelError> {
        Ok(self.maps.handover.get(0)?.in_charge == self.side.number)
    }

    /// From here on this side decides new connections, and the one before serves what it has stamped.
    pub(super) fn take_charge(&mut self) -> Result<(), KernelError> {
        let before = self.maps.handover.get(0)?;
        if before.in_charge == self.side.number {
            return Ok(());
        }
        // Until here a callback may be under way that began when this side was not attached yet: it must meet the other one in charge.
        sys::wait_for_readers();
        let mut after = Handover { in_charge: self.side.number, ..before };
        after.relieved_ns[before.in_charge as usize % RELIEVED] = sys::monotonic_ns();
        after.relieved_ns[self.side.number as usize % RELIEVED] = 0;
        self.maps.handover.set_checked(0, &after)?;
        self.attachments.attach_anywhere();
        // What is in the way is reported by what was seen.
        let _ = self.attachments.poll(&self.maps);
        Ok(())
    }

    /// Notes an install before it is in force, so that no other side has the same.
    pub(super) fn note_install(&self, install: u64) -> Result<(), KernelError> {
        let handover = self.maps.handover.get(0)?;
        self.maps.handover.set_checked(0, &Handover { installs: handover.installs.max(install), ..handover })
    }

    /// The earlier sides that are still there, the earliest first.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn earlier(&self) -> Result<Vec<Draining>, KernelError> {
        let handover = self.maps.handover.get(0)?;
        let now_ns = sys::monotonic_ns();
        let draining = self.earlier.iter().map(|Earlier { side, records, counts }| {
            let counted = counts.sum(0)?;
            let open = counted[Counter::FlowsStamped as usize].saturating_sub(counted[Counter::FlowsClosed as usize]);
            let relieved_ns = match handover.relieved_ns[side.number as usize % RELIEVED] {
                0 => now_ns,
                relieved_ns => relieved_ns,
            };
            Ok(Draining {
                number: side.number,
                layout: side.layout,
                identity: records.identity().to_owned(),
                open,
                dropped: counted[Counter::RecordsDropped as usize],
                unread: !records.is_empty(),
                relieved_for: Duration::from_nanos(now_ns.saturating_sub(relieved_ns)),
                retired: side.number < handover.oldest,
            })
        });
        draining.collect()
    }

    /// Has the earlier sides up to one serve nothing any more. What they have recorded can still be read.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retire(&mut self, number: u32) -> Result<(), KernelError> {
        let sides: Vec<_> = self.earlier.iter().map(|earlier| earlier.side.clone()).collect();
        retire(&sides, number)?;
        sys::wait_for_readers();
        Ok(())
    }

    /// Removes an earlier side, with the records that were not read.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget(&mut self, number: u32) -> Result<(), KernelError> {
        for gone in self.earlier.extract_if(.., |earlier| earlier.side.number == number) {
            pins::remove(&gone.side.dir)?;
        }
        Ok(())
    }

    /// The records of this side, and of earlier ones.
    pub fn all_records(&mut self) -> impl Iterator<Item = &mut Records> {
        std::iter::once(&mut self.records).chain(self.earlier.iter_mut().map(|earlier| &mut earlier.records))
    }
}

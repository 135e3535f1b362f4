//! The records of earlier kernel sides: what a daemon of another layout has left to be read, and where in it an aggregation is. Pure.

use prost::Message;

use super::journal::Head;

/// An earlier side's ring buffer, as a daemon finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierTables {
    /// Tells its tables from all others.
    pub identity: String,
    /// The ring buffer's consumer position.
    pub position: u64,
    /// Records lost so far.
    pub dropped: u64,
}

/// How far an aggregation is in the ring buffer of an earlier side.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EarlierRing {
    /// Tells its tables from all others.
    #[prost(string, tag = "1")]
    pub tables: String,
    /// Records before this position are in this aggregation, or in one before it.
    #[prost(uint64, tag = "2")]
    pub position: u64,
    /// Its count of lost records, as far as aggregations before this one have reported it.
    #[prost(uint64, tag = "3")]
    pub dropped_before: u64,
    /// Lost since then.
    #[prost(uint64, tag = "4")]
    pub dropped: u64,
}

/// Has a head go on with the earlier sides that there are, from where the aggregations before have come. What a side had lost that is not
/// there any more stays counted; one that has ended stays so. `furthest`: a position that is so far ahead of the ring buffer's own cannot be of it.
pub(super) fn go_on(head: &mut Head, before: &[&Head], there: &[EarlierTables], furthest: u64) {
    let known = std::mem::take(&mut head.earlier);
    head.ended.retain(|ended| there.iter().any(|there| there.identity == *ended));
    for EarlierTables { identity, position, dropped } in there {
        if head.ended.contains(identity) {
            continue;
        }
        let entry = known.iter().find(|ring| ring.tables == *identity).cloned();
        let mut entry = entry.unwrap_or_else(|| {
            let (_, before) = reached(before, identity).unwrap_or((*position, *dropped));
            EarlierRing { tables: identity.clone(), position: *position, dropped_before: before, dropped: 0 }
        });
        let reached = reached(before, identity).map_or(entry.position, |(reached, _)| reached.max(entry.position));
        let sound = reached.checked_sub(*position).is_some_and(|ahead| ahead <= furthest);
        entry.position = if sound { reached } else { *position };
        head.earlier.push(entry);
    }
    let gone = known.iter().filter(|ring| there.iter().all(|there| there.identity != ring.tables));
    head.lost = gone.map(|ring| ring.dropped).fold(head.lost, u64::saturating_add);
}

/// Up to where, and up to which count of lost records, aggregations have come with some tables.
fn reached(heads: &[&Head], identity: &str) -> Option<(u64, u64)> {
    let own = heads.iter().filter(|head| head.tables == identity);
    let own = own.map(|head| (head.position, head.dropped_before.saturating_add(head.dropped_own)));
    let earlier = heads.iter().flat_map(|head| &head.earlier).filter(|ring| ring.tables == identity);
    let earlier = earlier.map(|ring| (ring.position, ring.dropped_before.saturating_add(ring.dropped)));
    // Each was right when it was written, and both only grow.
    own.chain(earlier).reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))
}

impl Head {
    /// The ring buffer of an earlier side.
    pub(super) fn earlier(&self, identity: &str) -> Option<&EarlierRing> {
        self.earlier.iter().find(|ring| ring.tables == identity)
    }

    /// Notes how many records an earlier side has lost.
    pub(super) fn note_earlier_dropped(&mut self, identity: &str, dropped: u64) {
        if let Some(ring) = self.earlier.iter_mut().find(|ring| ring.tables == identity) {
            ring.dropped = dropped.saturating_sub(ring.dropped_before);
        }
        self.add_up_dropped();
    }

    /// An earlier side has ended, with connections open whose records are lost. Nothing if that was counted before.
    pub(super) fn end_earlier(&mut self, identity: &str, open: u64) {
        for ended in self.earlier.extract_if(.., |ring| ring.tables == identity) {
            self.lost = self.lost.saturating_add(ended.dropped).saturating_add(open);
            self.connections_lost = self.connections_lost.saturating_add(open);
            // Its pins are removed only when this is on disk.
            self.ended.push(ended.tables);
        }
        self.add_up_dropped();
    }

    pub(super) fn add_up_dropped(&mut self) {
        let own = self.dropped_own.saturating_add(self.lost);
        self.records_dropped = self.earlier.iter().map(|ring| ring.dropped).fold(own, u64::saturating_add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FURTHEST: u64 = 1_000;

    fn there(identity: &str, position: u64, dropped: u64) -> EarlierTables {
        EarlierTables { identity: identity.to_owned(), position, dropped }
    }

    fn head(tables: &str, position: u64) -> Head {
        Head { tables: tables.to_owned(), position, ..Head::default() }
    }

    #[test]
    fn it_goes_on_where_the_last_aggregation_has_come() {
        let first = Head { dropped_before: 2, dropped_own: 3, ..head("a", 70) };
        let mut second = head("b", 0);
        // Killed after writing down, before releasing.
        go_on(&mut second, &[&first], &[there("a", 50, 6)], FURTHEST);
        let ring = second.earlier("a").expect("there").clone();
        assert_eq!((ring.position, ring.dropped_before), (70, 5));
        second.note_earlier_dropped("a", 6);
        assert_eq!(second.records_dropped, 1, "five were reported by the first");
        second.earlier[0].position = 90;
        let mut third = head("c", 0);
        go_on(&mut third, &[&first, &second], &[there("a", 90, 6), there("b", 0, 0)], FURTHEST);
        let positions: Vec<_> = third.earlier.iter().map(|ring| (ring.position, ring.dropped_before)).collect();
        assert_eq!(positions, [(90, 6), (0, 0)]);
    }

    #[test]
    fn what_cannot_be_of_this_ring_buffer_is_not_believed() {
        for (reached, at, expected) in [(70, 71, 71), (2_000, 900, 900), (1_900, 900, 1_900)] {
            let (first, mut second) = (head("a", reached), head("b", 0));
            go_on(&mut second, &[&first], &[there("a", at, 0)], FURTHEST);
            assert_eq!(second.earlier[0].position, expected);
        }
    }

    #[test]
    fn every_loss_is_counted_once() {
        let mut head = head("b", 0);
        go_on(&mut head, &[], &[there("a", 0, 4)], FURTHEST);
        head.note_earlier_dropped("a", 9);
        head.end_earlier("a", 7);
        assert_eq!((head.records_dropped, head.connections_lost), (12, 7));
        // The daemon was killed before it could remove the pins.
        head.end_earlier("a", 7);
        go_on(&mut head, &[], &[], FURTHEST);
        head.add_up_dropped();
        assert_eq!((head.records_dropped, head.connections_lost, head.earlier.len()), (12, 7, 0));
    }

    #[test]
    fn an_ended_side_whose_pins_are_still_there_begins_with_what_was_counted() {
        let mut head = head("b", 0);
        go_on(&mut head, &[], &[there("a", 30, 4)], FURTHEST);
        head.note_earlier_dropped("a", 4);
        head.end_earlier("a", 7);
        assert!(head.ended.contains(&"a".to_owned()));
        go_on(&mut head, &[], &[there("a", 30, 4)], FURTHEST);
        assert!(head.earlier("a").is_none(), "it has ended");
    }
}

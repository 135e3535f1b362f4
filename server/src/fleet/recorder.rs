//! Writes what nodes say into the database: many nodes in one transaction, and again when the database was away. Bounded by
//! the number of streams, because what one stream says is coalesced: of each only the newest counts.
//!
//! A change goes out to all nodes first; their answers are written together, when the last is there or 200 ms later.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::sleep};

use super::{
    fanout::Fanout,
    mailbox::Mailbox,
    node::{Confirmation, Sign, SnapshotRefusal, Stream},
};
use crate::{
    store::{
        Result, Settled, Store, breaker,
        confirmation::{self, Gone},
    },
    task::{Scope, Spec, Task},
};

/// Streams written in one transaction.
const BATCH_MAX: usize = 500;
/// Refusals kept of a stream while the database is away; it keeps no more of a node either.
const REFUSALS_MAX: usize = 32;
/// How long answers wait for those of other nodes.
const GATHER_MAX: Duration = Duration::from_millis(200);
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What is not written yet.
#[derive(Debug, Default)]
pub struct Recorder {
    unwritten: Mutex<HashMap<Stream, Unwritten>>,
    /// Streams whose nodes have been sent a snapshot, and have not answered.
    unanswered: AtomicI64,
    /// There is something to write, together with what comes after it.
    some: Notify,
    /// What there is, is to be written now.
    all: Notify,
}

/// Of one stream, in order: refusals, a confirmation, refusals, its end.
#[derive(Debug, Clone, Default, PartialEq)]
struct Unwritten {
    /// What it said of itself last.
    sign: Option<Sign>,
    refused_before: Vec<SnapshotRefusal>,
    confirmed: Option<Confirmation>,
    refused_after: Vec<SnapshotRefusal>,
    /// Gone, and when it was heard of last.
    gone: Option<Instant>,
    /// Gone in order: the node's id is free.
    left: bool,
}

impl Unwritten {
    /// This, then what came later.
    fn then(mut self, later: Self) -> Self {
        let Self { sign, refused_before, confirmed, refused_after, gone, left } = later;
        self.refused_after.extend(refused_before);
        if confirmed.is_some() {
            self.confirmed = confirmed;
            self.refused_before.append(&mut self.refused_after);
        }
        self.refused_after.extend(refused_after);
        for refusals in [&mut self.refused_before, &mut self.refused_after] {
            let surplus = refusals.len().saturating_sub(REFUSALS_MAX);
            refusals.drain(..surplus);
        }
        self.sign = sign.or(self.sign);
        self.gone = gone.or(self.gone);
        self.left |= left;
        self
    }
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, HashMap<Stream, Unwritten>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, stream: &Stream, unwritten: Unwritten) {
        let mut all = self.lock();
        let before = all.remove(stream).unwrap_or_default();
        all.insert(stream.clone(), before.then(unwritten));
    }

    /// The node is sent a snapshot: its answer is on the way.
    pub fn asked(&self, mailbox: &Mailbox) {
        if !mailbox.await_answer(true) {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The node's answer is there, or none will come.
    pub fn answered(&self, mailbox: &Mailbox) {
        if mailbox.await_answer(false) {
            self.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Wakes whoever writes, unless more is to be waited for.
    fn wake(&self) {
        match self.unanswered.load(Ordering::Relaxed) {
            0 => self.all.notify_one(),
            _ => self.some.notify_one(),
        }
    }

    /// The node says something new of itself. Written every few seconds.
    pub fn told(&self, stream: &Stream, sign: Sign) {
        let tripped = !sign.breaker_trips.is_empty();
        self.add(stream, Unwritten { sign: Some(sign), ..Unwritten::default() });
        if tripped {
            self.all.notify_one();
        }
    }

    /// The node ends its stream in order.
    pub fn left(&self, stream: &Stream) {
        self.add(stream, Unwritten { left: true, ..Unwritten::default() });
    }

    /// The node has a snapshot in force.
    pub fn confirmed(&self, stream: &Stream, confirmation: Confirmation) {
        self.add(stream, Unwritten { confirmed: Some(confirmation), ..Unwritten::default() });
        self.wake();
    }

    /// The node has refused a snapshot.
    pub fn refused(&self, stream: &Stream, refusal: SnapshotRefusal) {
        self.add(stream, Unwritten { refused_after: vec![refusal], ..Unwritten::default() });
        self.wake();
    }

    /// The stream has ended. Its node was last heard of at `heard`.
    pub fn gone(&self, stream: &Stream, heard: Instant) {
        self.add(stream, Unwritten { gone: Some(heard), ..Unwritten::default() });
        self.wake();
    }

    /// Writes everything there is.
    ///
    /// # Errors
    /// If the database fails; what was not written is kept.
    pub async fn write(&self, store: &Store) -> Result<()> {
        loop {
            let batch: Vec<(Stream, Unwritten)> = {
                let mut all = self.lock();
                let streams: Vec<_> = all.keys().take(BATCH_MAX).cloned().collect();
                streams.into_iter().filter_map(|stream| all.remove_entry(&stream)).collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            if let Err(error) = write_batch(store, &batch).await {
                let mut all = self.lock();
                for (stream, unwritten) in batch {
                    let later = all.remove(&stream).unwrap_or_default();
                    all.insert(stream, unwritten.then(later));
                }
                return Err(error);
            }
        }
    }
}

/// The task that writes it.
#[derive(Debug)]
pub struct Record {
    /// What there is to write.
    pub recorder: Arc<Recorder>,
    pub store: Store,
    pub fanout: Arc<Fanout>,
    /// How often what is not urgent is written, and looked whether nodes are at another server.
    pub period: Duration,
    /// When that was looked last.
    pub looked: Instant,
}

impl Record {
    /// Gives up streams of nodes that are at another server now, or were removed.
    async fn look(&mut self) -> Result<()> {
        if self.looked.elapsed() < self.period {
            return Ok(());
        }
        let streams = self.fanout.streams();
        let lost =
            self.store.read("lost nodes", |conn| Box::pin(async move { confirmation::lost(conn, &streams).await }));
        lost.await?.iter().for_each(|stream| self.fanout.detach(stream));
        self.looked = Instant::now();
        Ok(())
    }
}

impl Task for Record {
    fn spec(&self) -> Spec {
        Spec { name: "recorder", period: self.period, retry_after: RETRY_AFTER, scope: Scope::Server }
    }

    async fn activated(&mut self) {
        let Recorder { some, all, .. } = &*self.recorder;
        tokio::select! {
            () = all.notified() => return,
            () = some.notified() => {}
        }
        tokio::select! {
            () = all.notified() => {}
            () = sleep(GATHER_MAX) => {}
        }
    }

    async fn run(&mut self) -> Result<String> {
        self.recorder.write(&self.store).await?;
        self.look().await?;
        Ok(String::new())
    }
}

async fn write_batch(store: &Store, batch: &[(Stream, Unwritten)]) -> Result<()> {
    let told = batch.iter().filter(|(_, unwritten)| unwritten.gone.is_none());
    let told: Vec<_> = told.filter_map(|(stream, unwritten)| Some((stream.clone(), unwritten.sign.clone()?))).collect();
    let of_node = |(stream, sign): &(Stream, Sign)| {
        let trips = sign.breaker_trips.iter().cloned();
        trips.map(|trip| (stream.node_id.clone(), trip)).collect::<Vec<_>>()
    };
    let trips: Vec<_> = told.iter().flat_map(of_node).collect();
    let gone = batch.iter().filter_map(|(stream, unwritten)| {
        let silent_ms = i64::try_from(unwritten.gone?.elapsed().as_millis()).unwrap_or(i64::MAX);
        Some(Gone { stream: stream.clone(), left: unwritten.left, silent_ms })
    });
    let gone: Vec<_> = gone.collect();
    let refused_before: Vec<_> = batch.iter().flat_map(|(_, unwritten)| unwritten.refused_before.clone()).collect();
    let refused_after: Vec<_> = batch.iter().flat_map(|(_, unwritten)| unwritten.refused_after.clone()).collect();
    // Two streams of one node in a batch: the node is where the newer one says, which is written with the next confirmation.
    let mut confirmed: HashMap<String, Confirmation> = HashMap::new();
    for confirmation in batch.iter().filter_map(|(_, unwritten)| unwritten.confirmed.clone()) {
        let known = confirmed.get(&confirmation.node_id).map_or(0, |known| known.version.generation);
        if confirmation.version.generation >= known {
            confirmed.insert(confirmation.node_id.clone(), confirmation);
        }
    }
    let confirmed: Vec<_> = confirmed.into_values().collect();
    store
        .transact("record", move |conn| {
            let (told, gone, confirmed) = (told.clone(), gone.clone(), confirmed.clone());
            let (refused_before, refused_after, trips) = (refused_before.clone(), refused_after.clone(), trips.clone());
            Box::pin(async move {
                for refusal in &refused_before {
                    confirmation::refuse(&mut *conn, refusal).await?;
                }
                if !confirmed.is_empty() {
                    confirmation::confirm(&mut *conn, &confirmed).await?;
                }
                for refusal in &refused_after {
                    confirmation::refuse(&mut *conn, refusal).await?;
                }
                if !told.is_empty() {
                    confirmation::told(&mut *conn, &told).await?;
                }
                if !trips.is_empty() {
                    breaker::note(&mut *conn, &trips).await?;
                }
                if !gone.is_empty() {
                    confirmation::gone(conn, &gone).await?;
                }
                Ok(Settled::Commit(()))
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::fleet::node::Version;

    fn confirmation(generation: u64) -> Unwritten {
        let version = Version { epoch: Uuid::nil(), generation, hash: [0; 32] };
        let confirmed =
            Confirmation { node_id: "n".to_owned(), version, revisions: [].into(), held_back: vec![], effective: None };
        Unwritten { confirmed: Some(confirmed), ..Unwritten::default() }
    }

    fn refusal(hash: u8) -> Unwritten {
        let refusal = SnapshotRefusal {
            node_id: "n".to_owned(),
            hash: [hash; 32],
            revisions: [].into(),
            violations: vec![],
            remember: true,
        };
        Unwritten { refused_after: vec![refusal], ..Unwritten::default() }
    }

    #[test]
    fn keeps_the_order_that_matters() {
        let all = refusal(1).then(confirmation(1)).then(refusal(2)).then(confirmation(2)).then(refusal(3));
        assert_eq!(all.confirmed, confirmation(2).confirmed, "the newest");
        assert_eq!(all.refused_before.len(), 2);
        assert_eq!(all.refused_after, refusal(3).refused_after);
        let later = Unwritten { gone: Some(Instant::now()), ..Unwritten::default() };
        assert!(all.then(later).gone.is_some());
    }

    #[test]
    fn is_bounded() {
        let all = (0..100).fold(Unwritten::default(), |unwritten, hash| unwritten.then(refusal(hash)));
        assert_eq!(all.refused_after.len(), REFUSALS_MAX);
        assert_eq!(all.refused_after.last().map(|refusal| refusal.hash[0]), Some(99), "the newest are kept");
    }
}

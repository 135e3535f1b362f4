//! What waits to be sent on one stream, one of a kind: its end, a heartbeat, and the newest delivery. Whoever has something for the stream
//! puts it here and wakes the one task that sends; nothing queues, so a slow node costs no memory.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use futures::task::AtomicWaker;
use tokio_util::sync::CancellationToken;

use super::{node::Version, session::Delivery};

/// Why a stream has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Another stream of the node has its place, or the node has to say hello anew.
    Superseded,
    /// The server ends.
    Drained,
    /// Nothing was heard of the node for too long.
    Silent,
}

/// What to send next.
#[derive(Debug, Clone, PartialEq)]
pub enum Letter {
    End(End),
    Heartbeat,
    Delivery(Delivery),
}

/// See the [module](self).
#[derive(Debug)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    waker: AtomicWaker,
    /// When the node was heard of last, by the clock of the fan-out.
    heard_ms: AtomicU64,
    /// A snapshot is on its way to the node, or its answer is on the way back.
    awaits_answer: AtomicBool,
    /// Cuts the connection, if the end cannot be sent.
    cut: CancellationToken,
}

#[derive(Debug)]
struct Mail {
    end: Option<End>,
    heartbeat: bool,
    delivery: Option<Delivery>,
    /// The delivery is to be looked at.
    unread: bool,
    /// When what the node lacks was committed; `None`: it has the newest, or nothing is known of it.
    lacks_since: Option<Instant>,
}

impl Mailbox {
    /// Of a stream that has just been opened. It begins with a heartbeat: what a node reports is placed by the time in it.
    pub(super) fn new(now_ms: u64, cut: CancellationToken) -> Self {
        let mail = Mail { end: None, heartbeat: true, delivery: None, unread: false, lacks_since: None };
        Self {
            mail: Mutex::new(mail),
            waker: AtomicWaker::new(),
            heard_ms: AtomicU64::new(now_ms),
            awaits_answer: AtomicBool::new(false),
            cut,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to send next; the task is woken when there is something.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Letter> {
        self.waker.register(cx.waker());
        let mail = &mut *self.lock();
        if let Some(end) = mail.end {
            return Poll::Ready(Letter::End(end));
        }
        if std::mem::take(&mut mail.heartbeat) {
            return Poll::Ready(Letter::Heartbeat);
        }
        match &mail.delivery {
            Some(delivery) if std::mem::take(&mut mail.unread) => Poll::Ready(Letter::Delivery(delivery.clone())),
            _ => Poll::Pending,
        }
    }

    /// Ends the stream. The first reason stands.
    pub(super) fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.waker.wake();
    }

    /// Ends the stream of a node that was silent for too long; its connection, if it has not taken that since it was said before.
    pub(super) fn end_silent(&self) {
        if self.lock().end.is_some() {
            self.cut.cancel();
        }
        self.end(End::Silent);
    }

    /// Answers with when what the node lacks was committed, if it lacks anything.
    pub(super) fn beat(&self) -> Option<Instant> {
        let lacks_since = {
            let mut mail = self.lock();
            mail.heartbeat = true;
            mail.lacks_since
        };
        self.waker.wake();
        lacks_since
    }

    /// The node has a content in force that was committed then. If that is not the newest, what it lacks has come since.
    pub fn has(&self, version: &Version, committed: Instant) {
        let mail = &mut *self.lock();
        let newest = mail.delivery.as_ref().is_some_and(|newest| newest.version.of() == version.of());
        mail.lacks_since = if newest { None } else { mail.lacks_since.max(Some(committed)) };
    }

    /// In the place of the delivery before. The same content under another generation of the same epoch is nothing to send.
    pub(super) fn deliver(&self, newest: Delivery) {
        let mail = &mut *self.lock();
        let same = mail.delivery.as_ref().is_some_and(|delivery| delivery.version.of() == newest.version.of());
        if !same {
            mail.lacks_since.get_or_insert(newest.committed);
            mail.unread = true;
            self.waker.wake();
        }
        mail.delivery = Some(newest);
    }

    pub(super) fn is_served(&self) -> bool {
        self.lock().delivery.is_some()
    }

    pub(super) fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    /// Says whether an answer is awaited from now on, and answers whether one was before.
    pub fn await_answer(&self, awaits: bool) -> bool {
        self.awaits_answer.swap(awaits, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        task::{Wake, Waker},
        time::Instant,
    };

    use uuid::Uuid;

    use super::*;
    use crate::fleet::{node::Version, resolve::Content};

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn delivery(generation: u64, hash: u8) -> Delivery {
        let content = Content::new([hash; 32], vec![hash].into(), [].into());
        let version = Version { epoch: Uuid::nil(), generation, hash: content.hash };
        let now = Instant::now();
        Delivery { version, content: Arc::new(content), committed: now, known: now }
    }

    fn next(mailbox: &Mailbox) -> Option<Letter> {
        match mailbox.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(letter) => Some(letter),
            Poll::Pending => None,
        }
    }

    #[test]
    fn begins_with_a_heartbeat_then_the_newest_delivery() {
        let mailbox = Mailbox::new(0, CancellationToken::new());
        mailbox.deliver(delivery(1, 1));
        let newest = delivery(2, 2);
        mailbox.deliver(newest.clone());
        assert_eq!(next(&mailbox), Some(Letter::Heartbeat));
        assert_eq!(next(&mailbox), Some(Letter::Delivery(newest)));
        assert_eq!(next(&mailbox), None);
    }

    #[test]
    fn the_same_content_wakes_nobody() {
        let (mailbox, wakes) = (Mailbox::new(0, CancellationToken::new()), Arc::new(Wakes::default()));
        mailbox.deliver(delivery(1, 1));
        while next(&mailbox).is_some() {}
        let waker = Waker::from(wakes.clone());
        assert!(mailbox.poll(&mut Context::from_waker(&waker)).is_pending());
        mailbox.deliver(delivery(2, 1));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        mailbox.beat();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!((next(&mailbox), next(&mailbox)), (Some(Letter::Heartbeat), None));
    }

    #[test]
    fn a_node_is_behind_since_what_it_has_was_replaced() {
        let mailbox = Mailbox::new(0, CancellationToken::new());
        assert_eq!(mailbox.beat(), None);
        let (first, second, third) = (delivery(1, 1), delivery(2, 2), delivery(3, 3));
        for delivery in [&first, &second] {
            mailbox.deliver(delivery.clone());
        }
        assert_eq!(mailbox.beat(), Some(first.committed), "it has neither");
        mailbox.has(&first.version, first.committed);
        assert_eq!(mailbox.beat(), Some(first.committed), "the second, committed later than the first");
        mailbox.deliver(third.clone());
        mailbox.has(&second.version, second.committed);
        assert_eq!(mailbox.beat(), Some(second.committed), "the third only");
        mailbox.has(&third.version, third.committed);
        assert_eq!(mailbox.beat(), None);
        mailbox.deliver(delivery(4, 3));
        assert_eq!(mailbox.beat(), None, "the same content");
    }

    #[test]
    fn the_end_goes_before_all_and_its_first_reason_stands() {
        let mailbox = Mailbox::new(0, CancellationToken::new());
        mailbox.deliver(delivery(1, 1));
        mailbox.end(End::Drained);
        mailbox.end(End::Superseded);
        assert_eq!(next(&mailbox), Some(Letter::End(End::Drained)));
        assert_eq!(next(&mailbox), Some(Letter::End(End::Drained)), "it stays so");
    }

    #[test]
    fn who_does_not_take_the_end_is_cut() {
        let cut = CancellationToken::new();
        let mailbox = Mailbox::new(0, cut.clone());
        mailbox.end_silent();
        assert_eq!(next(&mailbox), Some(Letter::End(End::Silent)));
        assert!(!cut.is_cancelled(), "it has time until it is its turn again");
        mailbox.end_silent();
        assert!(cut.is_cancelled());
        let drained = Mailbox::new(0, CancellationToken::new());
        drained.end(End::Drained);
        drained.end_silent();
        assert_eq!(next(&drained), Some(Letter::End(End::Drained)), "the first reason stands");
    }
}

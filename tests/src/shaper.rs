//! What one direction of an emulated link does to packets: loss, rate, a bounded queue, delay. Pure: time is an argument.

use std::time::Duration;

use crate::{packet::Segment, random::Random};

/// What one direction of a link is like. Can be changed while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Character {
    /// From end to end, once the packet has been sent.
    pub delay: Duration,
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
    /// Which packets the loss is about.
    pub loss_of: LossOf,
    /// Bits per second; `None`: without bound.
    pub rate_bps: Option<u64>,
    /// Bytes that may wait for the rate; what does not fit is dropped.
    pub queue_bytes: u64,
}

/// Which packets can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossOf {
    /// Every packet.
    All,
    /// Only SYNs, not SYN-ACKs.
    Syn,
    /// Only SYN-ACKs.
    SynAck,
    /// SYNs of connections to this port only.
    SynTo(u16),
}

impl Default for Character {
    fn default() -> Self {
        Self { delay: Duration::ZERO, loss: 0.0, loss_of: LossOf::All, rate_bps: None, queue_bytes: 1 << 20 }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It comes out at this time.
    Arrives(Duration),
    /// The link lost it.
    Lost,
    /// The queue was full.
    Overflowed,
}

/// The state of one direction. Times count from any fixed moment.
#[derive(Debug)]
pub struct Shaper {
    random: Random,
    /// When the last packet accepted will have been sent.
    line_free: Duration,
    /// When the last packet accepted comes out: packets never overtake each other.
    last_out: Duration,
}

impl Shaper {
    /// A quiet line with a seed for its losses.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: Random(seed), line_free: Duration::ZERO, last_out: Duration::ZERO }
    }

    /// Decides about a packet of `bytes` that comes `now`.
    pub fn decide(&mut self, character: &Character, now: Duration, bytes: usize, segment: Option<&Segment>) -> Fate {
        let may_be_lost = match character.loss_of {
            LossOf::All => true,
            LossOf::Syn => segment.is_some_and(Segment::is_syn),
            LossOf::SynAck => segment.is_some_and(Segment::is_syn_ack),
            LossOf::SynTo(port) => segment.is_some_and(|s| s.is_syn() && s.destination.port() == port),
        };
        if may_be_lost && self.random.chance(character.loss) {
            return Fate::Lost;
        }
        let start = self.line_free.max(now);
        let sent = match character.rate_bps {
            None => start,
            Some(rate) => {
                let waiting_bits = (start - now).as_nanos() * u128::from(rate) / 1_000_000_000;
                if waiting_bits / 8 + bytes as u128 > u128::from(character.queue_bytes) {
                    return Fate::Overflowed;
                }
                start + Duration::from_nanos(bytes as u64 * 8 * 1_000_000_000 / rate.max(1))
            }
        };
        self.line_free = sent;
        self.last_out = self.last_out.max(sent + character.delay);
        Fate::Arrives(self.last_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn delay_is_added_and_order_kept_when_it_shrinks() {
        let mut shaper = Shaper::new(1);
        let slow = Character { delay: 50 * MS, ..Character::default() };
        let fast = Character { delay: MS, ..Character::default() };
        assert_eq!(shaper.decide(&slow, 10 * MS, 100, None), Fate::Arrives(60 * MS));
        assert_eq!(shaper.decide(&fast, 20 * MS, 100, None), Fate::Arrives(60 * MS));
        assert_eq!(shaper.decide(&fast, 70 * MS, 100, None), Fate::Arrives(71 * MS));
    }

    #[test]
    fn rate_spaces_packets_and_the_queue_is_bounded() {
        let mut shaper = Shaper::new(1);
        // 1,000 bytes take 1 ms; 2,500 bytes may wait.
        let narrow = Character { rate_bps: Some(8_000_000), queue_bytes: 2_500, ..Character::default() };
        assert_eq!(shaper.decide(&narrow, MS, 1000, None), Fate::Arrives(2 * MS));
        assert_eq!(shaper.decide(&narrow, MS, 1000, None), Fate::Arrives(3 * MS));
        assert_eq!(shaper.decide(&narrow, MS, 1000, None), Fate::Overflowed);
        assert_eq!(shaper.decide(&narrow, 2 * MS, 1000, None), Fate::Arrives(4 * MS));
    }

    #[test]
    fn syn_loss_spares_everything_else() {
        let mut shaper = Shaper::new(1);
        let lossy = Character { loss: 1.0, loss_of: LossOf::Syn, ..Character::default() };
        let at = "10.0.0.1:1".parse().expect("address");
        let segment = |flags| Segment { source: at, destination: at, flags, window: 0, window_scale: None };
        assert_eq!(shaper.decide(&lossy, MS, 60, Some(&segment(0x02))), Fate::Lost);
        assert_eq!(shaper.decide(&lossy, MS, 60, Some(&segment(0x12))), Fate::Arrives(MS));
        assert_eq!(shaper.decide(&lossy, MS, 60, Some(&segment(0x10))), Fate::Arrives(MS));
        assert_eq!(shaper.decide(&lossy, MS, 60, None), Fate::Arrives(MS));
    }
}

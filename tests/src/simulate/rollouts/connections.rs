//! Connections whose truth is known, in pools from which any number can be drawn at once.

use sockpilot_outcomes::Measured;
use sockpilot_policy::measure::{Column, Columns, Quantity};
use sockpilot_stats::CoMoments;

use crate::random::Random;

/// Connections in a pool; its truth is theirs.
const POOL: usize = 4_096;
/// Sizes of blocks in a pool, each so many times the one before.
const STEP: usize = 16;
/// Blocks that are larger than the pool's parts, drawn from it.
const LARGE: usize = 32;
/// The horizon, in microseconds.
const HORIZON_US: f64 = 60e6;

/// What a change does to connections: so much more of one quantity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Harm {
    /// Nothing.
    None,
    /// Of a share, in addition.
    More(Quantity, f64),
    /// Times as much.
    Times(Quantity, f64),
}

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Of the node, in logarithms: its paths' round-trip time, and its losses and failures.
    pub path: f64,
    pub trouble: f64,
    /// The busy hour's part of its connections loses and fails three times as often, and queues.
    pub busy: bool,
}

struct Connection {
    failed: bool,
    reset: bool,
    timed_out: bool,
    handshake_us: f64,
    srtt_us: f64,
    segments: f64,
    retransmits: f64,
    duration_us: f64,
}

impl Connection {
    /// Correlated as on real paths: who is far away is slow, who loses is slower and ends badly; sizes and times are heavy in the tail.
    fn draw(random: &mut Random, place: Place) -> Self {
        let trouble = place.trouble.exp() * if place.busy { 3.0 } else { 1.0 };
        let handshake_us = (9.9 + place.path + 0.8 * random.normal()).exp();
        let queueing = if place.busy { 0.15 } else { 0.0 };
        let srtt_us = handshake_us * (queueing + 0.25 * random.normal()).exp();
        let segments = ((1.8 + 1.4 * random.normal()).exp().ceil() + 2.0).min(20_000.0);
        let loss = 0.004 * trouble * random.normal().exp();
        let spread = random.normal();
        let retransmits = rounded((segments * loss * (0.5 * spread).exp()).min(segments / 2.0), random);
        let thinking_us = (11.0 + 1.2 * random.normal()).exp();
        let rounds = 2.0 + (segments / 10.0).log2().max(0.0);
        let duration_us = (srtt_us * rounds + thinking_us + retransmits * 1.5 * srtt_us).min(HORIZON_US);
        let failed = random.chance(0.003 * trouble);
        let reset = random.chance(0.01 + 0.01 * trouble * f64::from(u8::from(retransmits > 0.0)));
        let timed_out = !reset && random.chance(0.001 * trouble);
        Self { failed, reset, timed_out, handshake_us, srtt_us, segments, retransmits, duration_us }
    }

    /// Does the harm, exactly as much of it in a pool as it is to be: `owed` is what is left of it over all connections so far.
    fn harm(&mut self, harm: Harm, owed: &mut f64) {
        match harm {
            Harm::None => {}
            Harm::More(Quantity::Retransmits, share) => {
                *owed += share * self.segments;
                self.retransmits += owed.floor();
                *owed = owed.fract();
            }
            Harm::More(quantity, share) => {
                *owed += share;
                if *owed >= 1.0 && self.value(Quantity::BadEnd) == 0.0 {
                    *owed -= 1.0;
                    (self.failed, self.reset) = (quantity == Quantity::Failed, quantity != Quantity::Failed);
                }
            }
            Harm::Times(Quantity::SrttUs, times) => self.srtt_us *= times,
            Harm::Times(_, times) => self.duration_us *= times,
        }
    }

    fn value(&self, quantity: Quantity) -> f64 {
        let yes = |yes: bool| f64::from(u8::from(yes));
        match quantity {
            Quantity::Failed => yes(self.failed),
            Quantity::BadEnd => yes(self.failed || self.reset || self.timed_out),
            Quantity::HandshakeRttUs => self.handshake_us,
            Quantity::Retransmits => self.retransmits,
            Quantity::SegmentsOut => self.segments + self.retransmits,
            Quantity::SrttUs => self.srtt_us,
            Quantity::DurationUs => self.duration_us,
            other => unreachable!("no gate of the simulation needs {other:?}"),
        }
    }

    fn row(&self, columns: &[Column]) -> Vec<f64> {
        let of = |column: &Column| match column {
            Column::Value(quantity, transform) => transform.of(self.value(*quantity)),
            Column::Known(_) => 1.0,
        };
        columns.iter().map(of).collect()
    }

    fn measured(&self, columns: &Columns) -> Measured {
        let mut measured = Measured {
            attempts: CoMoments::new(columns.attempts.len()),
            established: CoMoments::new(columns.established.len()),
            ..Measured::default()
        };
        measured.attempts.add(&self.row(&columns.attempts)).expect("finite");
        if !self.failed {
            measured.established.add(&self.row(&columns.established)).expect("finite");
        }
        measured
    }
}

/// To a whole number, by chance, so that the mean stays.
fn rounded(value: f64, random: &mut Random) -> f64 {
    value.floor() + f64::from(u8::from(random.chance(value.fract())))
}

/// Connections of one place and one harm.
pub struct Pool {
    /// Blocks of 1, 16, 256 and 4,096 connections.
    blocks: Vec<Vec<Measured>>,
}

impl Pool {
    pub fn new(columns: &Columns, place: Place, harm: Harm, seed: u64) -> Self {
        let (mut random, mut owed) = (Random(seed), 0.0);
        let mut one = || {
            let mut connection = Connection::draw(&mut random, place);
            connection.harm(harm, &mut owed);
            connection.measured(columns)
        };
        let single: Vec<Measured> = (0..POOL).map(|_| one()).collect();
        let mut blocks = vec![single];
        for _ in 0..2 {
            let smaller = blocks.last().expect("some");
            blocks.push(smaller.chunks(STEP).map(sum).collect());
        }
        // Of the largest, each connection is drawn anew: the pool itself would have no error.
        let large = |_| {
            let parts: Vec<_> =
                (0..STEP).map(|_| blocks[2][random.bits() as usize % blocks[2].len()].clone()).collect();
            sum(&parts)
        };
        let large = (0..LARGE).map(large).collect();
        blocks.push(large);
        Self { blocks }
    }

    /// Adds so many connections.
    pub fn draw(&self, random: &mut Random, mut count: usize, to: &mut Measured) {
        for (power, blocks) in self.blocks.iter().enumerate() {
            let last = power + 1 == self.blocks.len();
            let times = if last { count } else { count % STEP };
            for _ in 0..times {
                to.merge(&blocks[random.bits() as usize % blocks.len()]).expect("the same columns");
            }
            count /= STEP;
        }
    }
}

fn sum(parts: &[Measured]) -> Measured {
    let mut whole = Measured::default();
    parts.iter().for_each(|part| whole.merge(part).expect("the same columns"));
    whole
}

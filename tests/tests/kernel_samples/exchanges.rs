//! Traffic whose numbers are known beforehand: data both ways, with and without a packet lost, and connections to nobody.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_programs::NFT;
use sockpilot_proto::v1;
use sockpilot_tests::{
    link::Way,
    machine::Machine,
    shaper::Character,
    traffic::{Agent, Flow, Opening},
    world::{Wire, socket},
};

use crate::sides::{Case, GATE, Side};

const PORT: u16 = 55_603;
/// Nobody listens there.
const SHUT: u16 = 9;
/// So long that a packet which a busy machine holds up is not taken for a lost one.
const DELAY: Duration = Duration::from_millis(40);
/// What the other end reads before it answers, in bytes.
const HEAD: u64 = 8;
/// Fits the first window, so that no timing changes how it is cut into packets.
const MUCH: u32 = 10_000;
const LITTLE: u32 = 100;

/// Local and remote.
pub type Ends = (SocketAddr, SocketAddr);

/// What goes over a connection.
#[derive(Debug, Clone, Copy)]
struct Exchange {
    upload: u32,
    download: u32,
    /// Where one packet is lost.
    lost: Option<Way>,
}

impl Exchange {
    fn all() -> impl Iterator<Item = Self> {
        let (up, down) = ((MUCH, LITTLE), (LITTLE, MUCH));
        let each = [(up, None), (down, None), (up, Some(Way::Forth)), (down, Some(Way::Back))];
        each.into_iter().map(|((upload, download), lost)| Self { upload, download, lost })
    }
}

/// A connection that has been.
#[derive(Debug)]
pub struct Tried {
    exchange: Exchange,
    /// As the client saw it.
    pub flow: Flow,
    /// Of the accepted socket.
    pub traffic_class: u32,
}

/// One end of a connection, and what should be counted there.
#[derive(Debug)]
pub struct End {
    /// The addresses of both ends.
    pub ends: Ends,
    /// Whether it opened or accepted.
    pub direction: v1::Direction,
    /// Bytes of data.
    pub sent: u64,
    /// Bytes of data.
    pub received: u64,
    /// Packets sent again.
    pub retransmits: u32,
}

impl Tried {
    /// The one that opened, then the one that accepted.
    pub fn ends(&self) -> [End; 2] {
        let Self { exchange: Exchange { upload, download, lost }, flow: Flow { local, remote, .. }, .. } = self;
        let (upload, download) = (HEAD + u64::from(*upload), u64::from(*download));
        let retransmits = |way| u32::from(*lost == Some(way));
        let active = End {
            ends: (*local, *remote),
            direction: v1::Direction::Active,
            sent: upload,
            received: download,
            retransmits: retransmits(Way::Forth),
        };
        let passive = End {
            ends: (*remote, *local),
            direction: v1::Direction::Passive,
            sent: download,
            received: upload,
            retransmits: retransmits(Way::Back),
        };
        [active, passive]
    }
}

/// Every exchange between every pair of addresses, with a server of their own that has a listener for each family.
pub fn exchange(machine: &Machine, side: &mut Side) -> Result<(Vec<Tried>, Agent)> {
    for way in [Way::Forth, Way::Back] {
        side.wire.link.set(way, Character { delay: DELAY, ..Character::default() });
    }
    let mut server = Agent::start(machine, "server", &side.wire.far, Some(&side.cgroup))?;
    for to in pairs().map(|(to, _)| to).collect::<BTreeSet<_>>() {
        server.listen(socket(to, PORT)?)?;
    }
    let mut all = Vec::new();
    for (to, from) in pairs() {
        for exchange in Exchange::all() {
            let Exchange { upload, download, lost } = exchange;
            let opening = Opening { from: Some(from.parse()?), upload, download, ..Opening::new(socket(to, PORT)?, 1) };
            if let Some(way) = lost {
                lose_one(&side.wire, way)?;
            }
            let flow = side.client.open(&opening)?.pop().context("no connection")?;
            if let Some(way) = lost {
                heal(&side.wire, way)?;
            }
            ensure!(flow.error.is_none(), "{flow:?}");
            let accepted = server.accepted()?.pop().context("nothing was accepted")?;
            ensure!(accepted.remote == flow.local, "{accepted:?} is not {flow:?}");
            all.push(Tried { exchange, flow, traffic_class: accepted.opened.traffic_class });
        }
    }
    Ok((all, server))
}

/// Connections to where nobody listens.
pub fn knock(side: &mut Side) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for (to, from) in pairs() {
        let opening = Opening { from: Some(from.parse()?), ..Opening::new(socket(to, SHUT)?, 1) };
        flows.extend(side.client.open(&opening)?);
    }
    ensure!(flows.iter().all(|flow| flow.error.is_some()), "{flows:?}");
    Ok(flows)
}

/// To where and from where.
fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    Case::all().filter(|case| case.port == GATE).map(|case| case.ends)
}

/// Loses the next packet full of data, where it comes out of the link.
fn lose_one(wire: &Wire, way: Way) -> Result<()> {
    let server = if way == Way::Forth { "dport" } else { "sport" };
    let orders = format!(
        "add table inet harm; add chain inet harm in {{ type filter hook input priority 0; }}; \
         add rule inet harm in tcp {server} {PORT} meta length > 500 limit rate 1/hour burst 1 packets drop"
    );
    nft(wire, way, &orders)
}

fn heal(wire: &Wire, way: Way) -> Result<()> {
    nft(wire, way, "delete table inet harm")
}

fn nft(wire: &Wire, way: Way, orders: &str) -> Result<()> {
    let netns = if way == Way::Forth { &wire.far } else { &wire.near };
    netns.output(NFT, &[orders]).map(drop)
}

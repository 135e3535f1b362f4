//! An emulated link between two network namespaces: a TUN device in each, and a thread that carries packets between them.

use std::{
    collections::VecDeque,
    fs::File,
    io::{ErrorKind, Read, Write},
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use crate::{
    netns::Netns,
    packet::{self, Segment},
    shaper::{Character, Fate, Shaper},
};

const MTU: usize = 1500;
/// Packets under way in one direction; more are dropped and counted.
const UNDER_WAY_MAX: usize = 65_536;
/// Handshake segments remembered; later ones are not.
const SIGHTINGS_MAX: usize = 200_000;
/// Packets read from one device before the other has its turn.
const READS_PER_TURN: usize = 64;
/// How often the thread looks whether it should end.
const IDLE: Duration = Duration::from_millis(50);

/// From which end to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the first namespace to the second.
    Forth,
    /// From the second to the first.
    Back,
}

/// A SYN or SYN-ACK as it came into the link, also if the link then lost it.
#[derive(Debug, Clone, Copy)]
pub struct Sighting {
    /// Since the link was made.
    pub at: Duration,
    /// Where it was going.
    pub way: Way,
    /// What it was.
    pub segment: Segment,
    /// Whether the link let it through.
    pub carried: bool,
}

/// What became of the packets of one direction.
#[derive(Debug, Default)]
struct Counters {
    carried: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
}

/// Packets of one direction, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Came out.
    pub carried: u64,
    /// Were lost on purpose.
    pub lost: u64,
    /// Found the queue full.
    pub overflowed: u64,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    characters: Mutex<[Character; 2]>,
    counters: [Counters; 2],
    sightings: Mutex<Vec<Sighting>>,
    stop: AtomicBool,
}

/// One end of a link to be made: a namespace, and the addresses that are to be reached there.
#[derive(Debug)]
pub struct End<'a> {
    /// Where.
    pub netns: &'a Netns,
    /// The first of each family is the source of what is sent from here.
    pub addresses: &'a [IpAddr],
}

/// The link; the devices go when it is dropped.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Connects two namespaces; both directions begin with the same character.
    ///
    /// # Errors
    /// If a device cannot be made.
    pub fn new(first: &End<'_>, second: &End<'_>, character: Character, seed: u64) -> Result<Self> {
        let tunnels = [open_end(first, second)?, open_end(second, first)?];
        let shared = Arc::new(Shared {
            began: Instant::now(),
            characters: Mutex::new([character; 2]),
            counters: Default::default(),
            sightings: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let relay = Relay::new(tunnels, Arc::clone(&shared), seed);
        let thread = thread::Builder::new().name("link".to_owned()).spawn(|| relay.run()).context("starting a link")?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Changes one direction from now on.
    pub fn set(&self, way: Way, character: Character) {
        self.shared.characters.lock().unwrap_or_else(PoisonError::into_inner)[way as usize] = character;
    }

    /// What became of one direction's packets so far.
    #[must_use]
    pub fn counts(&self, way: Way) -> Counts {
        let counters = &self.shared.counters[way as usize];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { carried: read(&counters.carried), lost: read(&counters.lost), overflowed: read(&counters.overflowed) }
    }

    /// Time since the link was made, as in [`Sighting::at`].
    #[must_use]
    pub fn age(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// All SYNs and SYN-ACKs so far.
    #[must_use]
    pub fn sightings(&self) -> Vec<Sighting> {
        self.shared.sightings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Direction {
    shaper: Shaper,
    under_way: VecDeque<(Duration, Vec<u8>)>,
}

struct Relay {
    tunnels: [File; 2],
    shared: Arc<Shared>,
    directions: [Direction; 2],
}

impl Relay {
    fn new(tunnels: [File; 2], shared: Arc<Shared>, seed: u64) -> Self {
        let direction = |seed| Direction { shaper: Shaper::new(seed), under_way: VecDeque::new() };
        Self { tunnels, shared, directions: [direction(seed), direction(!seed)] }
    }

    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let now = self.shared.began.elapsed();
            let next = self.directions.iter().filter_map(|d| d.under_way.front()).map(|(due, _)| *due).min();
            let pause = next.map_or(IDLE, |due| due.saturating_sub(now)).min(IDLE);
            let mut waiting = self.tunnels.each_ref().map(|tunnel| PollFd::new(tunnel.as_fd(), PollFlags::POLLIN));
            // An interrupted wait is only a short one.
            let _ = ppoll(&mut waiting, Some(TimeSpec::from_duration(pause)), None);
            for way in [Way::Forth, Way::Back] {
                self.take_in(way);
            }
            for way in [Way::Forth, Way::Back] {
                self.give_out(way);
            }
        }
    }

    fn take_in(&mut self, way: Way) {
        let character = self.shared.characters.lock().unwrap_or_else(PoisonError::into_inner)[way as usize];
        let mut packet = [0; MTU];
        for _ in 0..READS_PER_TURN {
            let Ok(length) = (&self.tunnels[way as usize]).read(&mut packet) else { return };
            let now = self.shared.began.elapsed();
            let segment = packet::parse(&packet[..length]);
            let Direction { shaper, under_way } = &mut self.directions[way as usize];
            let mut fate = shaper.decide(&character, now, length, segment.as_ref());
            if under_way.len() >= UNDER_WAY_MAX {
                fate = Fate::Overflowed;
            }
            let counters = &self.shared.counters[way as usize];
            match fate {
                Fate::Arrives(due) => under_way.push_back((due, packet[..length].to_vec())),
                Fate::Lost => drop(counters.lost.fetch_add(1, Ordering::Relaxed)),
                Fate::Overflowed => drop(counters.overflowed.fetch_add(1, Ordering::Relaxed)),
            }
            if let Some(segment) = segment.filter(|segment| segment.is_syn() || segment.is_syn_ack()) {
                let mut sightings = self.shared.sightings.lock().unwrap_or_else(PoisonError::into_inner);
                if sightings.len() < SIGHTINGS_MAX {
                    sightings.push(Sighting { at: now, way, segment, carried: matches!(fate, Fate::Arrives(_)) });
                }
            }
        }
    }

    fn give_out(&mut self, way: Way) {
        let (from, to) = (way as usize, 1 - way as usize);
        let now = self.shared.began.elapsed();
        while let Some((_, packet)) = self.directions[from].under_way.pop_front_if(|(due, _)| *due <= now) {
            let counters = &self.shared.counters[from];
            match (&self.tunnels[to]).write(&packet) {
                Ok(_) => counters.carried.fetch_add(1, Ordering::Relaxed),
                // The receiving kernel has no room: as any network would, drop it.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    counters.overflowed.fetch_add(1, Ordering::Relaxed)
                }
                Err(_) => counters.lost.fetch_add(1, Ordering::Relaxed),
            };
        }
    }
}

/// Makes a device in `here` that leads to the addresses of `there`.
fn open_end(here: &End<'_>, there: &End<'_>) -> Result<File> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let device = format!("link{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let tunnel = here.netns.run(|| open_tunnel(&device))?;
    let mut lines = format!("link set {device} up mtu {MTU} txqueuelen 10000\n");
    for address in here.addresses {
        lines += &match address {
            IpAddr::V4(address) => format!("addr add {address}/32 dev {device}\n"),
            IpAddr::V6(address) => format!("addr add {address}/128 dev {device} nodad\n"),
        };
    }
    for address in there.addresses {
        let source = here.addresses.iter().find(|source| source.is_ipv4() == address.is_ipv4());
        let source = source.map(|source| format!("src {source}")).unwrap_or_default();
        lines += &format!("route add {address} dev {device} {source}\n");
    }
    here.netns.ip(&lines)?;
    Ok(tunnel)
}

fn open_tunnel(device: &str) -> Result<File> {
    nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
    let tunnel = File::options().read(true).write(true).open("/dev/net/tun").context("opening /dev/net/tun")?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).context("flags")?;
    // SAFETY: the request is a valid ifreq and lives during the call.
    unsafe { tun_set_iff(tunnel.as_raw_fd(), &raw const request) }
        .with_context(|| format!("making the device {device}"))?;
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&tunnel, nix::fcntl::FcntlArg::F_SETFL(flags)).context("making the device non-blocking")?;
    Ok(tunnel)
}

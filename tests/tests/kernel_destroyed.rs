//! Why a connection's record is written when its state changes to CLOSE, and not where its socket is destroyed, though that would be one call
//! instead of four: by then much of it is gone. Should a kernel keep it one day, this fails. See `docs/kernel-cost.md`.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::maps::{MapData, RingBuf};
use socket2::{Domain, SockAddr, Socket, Type};
use sockpilot_programs::reserved_address;
use sockpilot_tests::{
    cgroup::{self, Cgroup},
    cprogram::CProgram,
    machine::{Machine, Needs, scenario},
    wait::eventually,
};

const ESTABLISHED: u32 = 1;
const CLOSE: u32 = 7;
const PATIENCE: Duration = Duration::from_secs(5);

/// `struct sight` in `tests/c/destroyed.bpf.c`.
#[derive(Debug, Clone, Copy)]
struct Sight {
    bytes_received: u64,
    state: u32,
    error: u32,
    remote_port: u32,
    ends: u32,
}

/// A socket when its state changed to CLOSE, and when it was destroyed.
#[derive(Debug)]
struct Seen {
    closing: Sight,
    destroyed: Sight,
}

impl Seen {
    fn of(bytes: &[u8]) -> Result<Self> {
        let (words, rest) = bytes.as_chunks::<4>();
        ensure!(words.len() == 16 && rest.is_empty(), "{} bytes", bytes.len());
        let words: Vec<u32> = words.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        let sight = |at: usize| Sight {
            bytes_received: u64::from(words[at + 2]) | u64::from(words[at + 3]) << 32,
            state: words[at + 4],
            error: words[at + 5],
            remote_port: words[at + 6],
            ends: words[at + 7],
        };
        Ok(Self { closing: sight(0), destroyed: sight(8) })
    }
}

/// This process in a cgroup with the program, and what that has seen.
struct Rig {
    listener: TcpListener,
    seen: RingBuf<MapData>,
    home: PathBuf,
    _program: CProgram,
}

impl Rig {
    fn new(machine: &Machine, cgroup: &Cgroup) -> Result<Self> {
        let mut program = CProgram::load(machine, "destroyed", None)?;
        program.attach(cgroup)?;
        program.attach_to_tracepoint("at_destruction", "tcp_destroy_sock")?;
        let here = fs::read_to_string("/proc/self/cgroup").context("asking for this cgroup")?;
        let here = here.lines().find_map(|line| line.strip_prefix("0::/")).context("in no cgroup")?;
        let home = cgroup::root()?.join(here).join("cgroup.procs");
        fs::write(cgroup.path().join("cgroup.procs"), "0").context("entering the cgroup")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        Ok(Self { listener, seen: program.map("SEEN")?, home, _program: program })
    }

    fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().context("asking for the port")
    }

    /// Both ends of a connection over which a byte went either way, and the ports of both.
    fn pair(&self) -> Result<[(Socket, u32); 2]> {
        let mut near = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        near.connect(&self.address()?.into())?;
        let (far, from) = self.listener.accept()?;
        let mut far = Socket::from(far);
        let mut byte = [1];
        near.write_all(&byte)?;
        far.read_exact(&mut byte)?;
        far.write_all(&byte)?;
        near.read_exact(&mut byte)?;
        Ok([(near, u32::from(from.port())), (far, u32::from(self.address()?.port()))])
    }

    /// The only socket that was destroyed since the last question.
    fn destroyed(&mut self) -> Result<Seen> {
        let mut seen = None;
        eventually("a socket is destroyed", PATIENCE, || {
            seen = Some(Seen::of(&self.seen.next().context("none was")?)?);
            Ok(())
        })?;
        ensure!(self.seen.next().is_none(), "and another one");
        seen.context("none was")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = fs::write(&self.home, "0");
    }
}

/// Who does not linger has an empty socket when it is destroyed. The other one keeps its, and has read the reset away.
fn reset(rig: &mut Rig) -> Result<()> {
    let [(mut near, near_port), (far, far_port)] = rig.pair()?;
    far.set_linger(Some(Duration::ZERO))?;
    drop(far);
    let Seen { closing, destroyed } = rig.destroyed()?;
    ensure!(closing.state == ESTABLISHED && destroyed.state == CLOSE, "{closing:?} {destroyed:?}");
    ensure!((closing.bytes_received, closing.remote_port) == (1, near_port), "{closing:?}");
    ensure!((destroyed.bytes_received, destroyed.remote_port) == (0, 0), "{destroyed:?}");

    let error = near.read(&mut [0]).err().context("no reset")?;
    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    ensure!(rig.seen.next().is_none(), "it has ended, and is not destroyed before it is closed");
    drop(near);
    let Seen { closing, destroyed } = rig.destroyed()?;
    ensure!((closing.error, closing.remote_port) == (libc::ECONNRESET.unsigned_abs(), far_port), "{closing:?}");
    ensure!(destroyed.error == 0 && destroyed.state == CLOSE, "{destroyed:?}");
    Ok(())
}

/// A socket that is refused and connects again has two connections and one destruction.
fn refused(rig: &mut Rig) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let nobody: SockAddr = reserved_address()?.into();
    let error = socket.connect(&nobody).err().context("not refused")?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
    ensure!(rig.seen.next().is_none(), "a refused socket is there still");
    socket.connect(&rig.address()?.into())?;
    let (mut far, _) = rig.listener.accept()?;
    drop(socket);
    ensure!(far.read(&mut [0])? == 0, "no end");
    drop(far);
    let mut seen = vec![];
    eventually("both are destroyed", PATIENCE, || {
        while let Some(bytes) = rig.seen.next() {
            seen.push(Seen::of(&bytes)?);
        }
        ensure!(seen.len() == 2, "{seen:?}");
        Ok(())
    })?;
    let ends: u32 = seen.iter().map(|seen| seen.closing.ends).sum();
    ensure!(ends == 3, "{seen:?}");
    Ok(())
}

#[test]
fn a_destroyed_socket_has_forgotten_how_its_connection_ended() {
    scenario(Needs::Kernel, |machine| {
        let cgroup = Cgroup::new(machine, "destroyed")?;
        let mut rig = Rig::new(machine, &cgroup)?;
        reset(&mut rig)?;
        refused(&mut rig)
    });
}

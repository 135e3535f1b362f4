//! A way to somebody over which a test has power: what goes over it can be let through, held up, or cut off, and led elsewhere.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    runtime::{Handle, Runtime},
    sync::watch,
};

const BUFFER_BYTES: usize = 16 << 10;

/// What becomes of what goes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It arrives.
    Pass,
    /// It waits, and so does who wants to connect: a network that drops everything.
    Stall,
    /// Connections end, and new ones as soon as they are made: nobody is there.
    Cut,
}

/// Where a relay leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To a port.
    Port(SocketAddr),
    /// To a socket in the file system.
    Socket(PathBuf),
}

/// See the [module](self). It ends with the guard.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    target: watch::Sender<Target>,
}

impl Relay {
    /// On a port of its own.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(runtime: &Runtime, target: Target) -> Result<Self> {
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).context("a port for a relay")?;
        let address = listener.local_addr().context("asking for the port")?;
        let ((mode, modes), (target, targets)) = (watch::channel(Mode::Pass), watch::channel(target));
        runtime.spawn(accept(listener, modes, targets));
        Ok(Self { address, mode, target })
    }

    /// Where it is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what becomes of what goes over it, from now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Leads elsewhere, also who is connected: their connections end.
    pub fn lead_to(&self, target: Target) {
        self.target.send_replace(target);
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

async fn accept(listener: TcpListener, mut modes: watch::Receiver<Mode>, targets: watch::Receiver<Target>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            ended = async { while modes.changed().await.is_ok() {} } => return ended,
        };
        if let Ok((near, _)) = accepted {
            Handle::current().spawn(carry(near, modes.clone(), targets.clone()));
        }
    }
}

async fn carry(near: TcpStream, mut modes: watch::Receiver<Mode>, mut targets: watch::Receiver<Target>) {
    let _ = near.set_nodelay(true);
    if !passes(&mut modes).await {
        return;
    }
    let target = targets.borrow_and_update().clone();
    let Ok(far) = connect(&target).await else { return };
    let (mut near_reader, mut near_writer) = tokio::io::split(near);
    let (mut far_reader, mut far_writer) = tokio::io::split(far);
    tokio::select! {
        () = copy(&mut near_reader, &mut far_writer, modes.clone()) => {}
        () = copy(&mut far_reader, &mut near_writer, modes.clone()) => {}
        _ = targets.changed() => {}
        _ = modes.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn connect(target: &Target) -> io::Result<Box<dyn Both>> {
    Ok(match target {
        Target::Port(address) => {
            let far = TcpStream::connect(address).await?;
            far.set_nodelay(true)?;
            Box::new(far)
        }
        Target::Socket(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// Waits while it stalls. Whether it passes.
async fn passes(modes: &mut watch::Receiver<Mode>) -> bool {
    modes.wait_for(|mode| *mode != Mode::Stall).await.is_ok_and(|mode| *mode == Mode::Pass)
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut modes: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !passes(&mut modes).await || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

//! The inside of an agent: plain threads with blocking sockets.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Accepted, Answer, Facts, Flow, Opening, Order, kept::Pair};

const BACKLOG: i32 = 16_384;
const CHUNK: usize = 65_536;
/// No exchange takes longer, whatever is lost.
pub(super) const EXCHANGE_MAX: Duration = Duration::from_secs(30);
/// Accepted connections remembered between two questions about them.
const ACCEPTED_MAX: usize = 200_000;

/// When the first connection was opened.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What an agent has under way.
#[derive(Debug, Default)]
pub struct Worker {
    accepted: Arc<Mutex<Vec<Accepted>>>,
    running: Option<Running>,
    kept: Vec<Pair>,
}

#[derive(Debug)]
struct Running {
    stop: Arc<AtomicBool>,
    flows: Arc<Mutex<Vec<Flow>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Obeys one order.
    pub fn obey(&mut self, order: Order) -> Answer {
        match order {
            Order::Listen(at) => match listen(at, Arc::clone(&self.accepted)) {
                Ok(at) => Answer::Listening(at),
                Err(error) => Answer::Failed(format!("listening at {at}: {error}")),
            },
            Order::Accepted => Answer::Accepted(drain(&self.accepted)),
            Order::Open(opening) => Answer::Opened(open(&opening)),
            Order::Start(_) if self.running.is_some() => Answer::Failed("already opening connections".to_owned()),
            Order::Start(opening) => {
                self.running = Some(start(&opening));
                Answer::Done
            }
            Order::Progress => match &self.running {
                Some(running) => Answer::Opened(drain(&running.flows)),
                None => Answer::Failed("not opening connections".to_owned()),
            },
            Order::Stop => match self.running.take() {
                Some(running) => {
                    running.stop.store(true, Ordering::Relaxed);
                    for thread in running.threads {
                        let _ = thread.join();
                    }
                    Answer::Opened(drain(&running.flows))
                }
                None => Answer::Failed("not opening connections".to_owned()),
            },
            Order::Keep(at) => done(Pair::open(at).map(|pair| self.kept.push(pair))),
            Order::FinishSending(which, end) => match self.kept.get(which) {
                Some(pair) => done(pair.finish_sending(end)),
                None => Answer::Failed(format!("no connection {which}")),
            },
            Order::Look => match self.kept.iter().map(Pair::options).collect() {
                Ok(options) => Answer::Kept(options),
                Err(error) => Answer::Failed(error.to_string()),
            },
        }
    }
}

fn done(result: io::Result<()>) -> Answer {
    result.map_or_else(|error| Answer::Failed(error.to_string()), |()| Answer::Done)
}

fn drain<T>(list: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut list.lock().unwrap_or_else(PoisonError::into_inner))
}

fn listen(at: SocketAddr, accepted: Arc<Mutex<Vec<Accepted>>>) -> io::Result<SocketAddr> {
    let listener = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    listener.set_reuse_address(true)?;
    listener.bind(&at.into())?;
    listener.listen(BACKLOG)?;
    let at = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    thread::spawn(move || {
        while let Ok((socket, remote)) = listener.accept() {
            if let (Ok(opened), Some(remote)) = (Facts::of(&socket), remote.as_socket()) {
                let mut accepted = accepted.lock().unwrap_or_else(PoisonError::into_inner);
                if accepted.len() < ACCEPTED_MAX {
                    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                    accepted.push(Accepted { remote, opened });
                }
            }
            thread::spawn(move || serve(socket.into()));
        }
    });
    Ok(at)
}

/// Two numbers say how many bytes come, and how many are to be sent back; then the other end closes first.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(EXCHANGE_MAX))?;
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let [a, b, c, d, e, f, g, h] = head;
    receive(&mut stream, u32::from_be_bytes([a, b, c, d]))?;
    send(&mut stream, u32::from_be_bytes([e, f, g, h]))?;
    stream.read(&mut head).map(drop)
}

fn receive(stream: &mut TcpStream, bytes: u32) -> io::Result<()> {
    let mut rest = u64::from(bytes);
    let mut buffer = vec![0; CHUNK];
    while rest > 0 {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => rest = rest.saturating_sub(length as u64),
        }
    }
    Ok(())
}

fn send(stream: &mut TcpStream, bytes: u32) -> io::Result<()> {
    let zeros = [0; CHUNK];
    let mut rest = bytes as usize;
    while rest > 0 {
        let length = rest.min(CHUNK);
        stream.write_all(&zeros[..length])?;
        rest -= length;
    }
    Ok(())
}

fn open(opening: &Opening) -> Vec<Flow> {
    let left = AtomicUsize::new(opening.count);
    let flows = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..opening.at_once.max(1) {
            scope.spawn(|| {
                while left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    one_after_the_other(opening, &flows);
                }
            });
        }
    });
    drain(&flows)
}

fn start(opening: &Opening) -> Running {
    let (stop, flows) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
    let worker = |_| {
        let (opening, stop, flows) = (opening.clone(), Arc::clone(&stop), Arc::clone(&flows));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                one_after_the_other(&opening, &flows);
            }
        })
    };
    let threads = (0..opening.at_once.max(1)).map(worker).collect();
    Running { stop, flows, threads }
}

fn one_after_the_other(opening: &Opening, flows: &Mutex<Vec<Flow>>) {
    let flow = connect(opening);
    flows.lock().unwrap_or_else(PoisonError::into_inner).push(flow);
    thread::sleep(Duration::from_millis(opening.pause_ms));
}

fn connect(opening: &Opening) -> Flow {
    let nowhere = SocketAddr::new(opening.to.ip(), 0);
    let began = Instant::now();
    let mut flow = Flow {
        local: nowhere,
        remote: opening.to,
        began_us: micros(*BEGINNING),
        connect_us: 0,
        duration_us: 0,
        opened: None,
        closed: None,
        error: None,
    };
    if let Err(error) = exchange(opening, began, &mut flow) {
        flow.error = Some(error.to_string());
    }
    flow.duration_us = micros(began);
    flow
}

fn exchange(opening: &Opening, began: Instant, flow: &mut Flow) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(opening.to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(from) = opening.from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    let connected = socket.connect_timeout(&opening.to.into(), Duration::from_millis(opening.patience_ms));
    flow.connect_us = micros(began);
    if let Some(local) = socket.local_addr()?.as_socket() {
        flow.local = local;
    }
    connected?;
    flow.opened = Some(Facts::of(&socket)?);
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(EXCHANGE_MAX))?;
    stream.set_write_timeout(Some(EXCHANGE_MAX))?;
    // Else the last, small segment would wait a round trip for the others.
    stream.set_nodelay(true)?;
    let mut head = [0; 8];
    head[..4].copy_from_slice(&opening.upload.to_be_bytes());
    head[4..].copy_from_slice(&opening.download.to_be_bytes());
    stream.write_all(&head)?;
    send(&mut stream, opening.upload)?;
    receive(&mut stream, opening.download)?;
    thread::sleep(Duration::from_millis(opening.hold_ms));
    flow.closed = Some(Facts::of(&Socket::from(stream.try_clone()?))?);
    if opening.until_closed {
        stream.shutdown(Shutdown::Write)?;
        stream.read(&mut head).map(drop)?;
    }
    Ok(())
}

fn micros(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

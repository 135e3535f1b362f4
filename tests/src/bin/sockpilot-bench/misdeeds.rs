//! The hostile node, in a process of its own: it would have a machine of its own, so its own work is done in what time the others leave, and
//! its memory is not theirs. What it makes the server do is another matter, and what is measured.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{sys::signal::Signal, unistd::setsid};
use rustix::process::setpriority_process;
use sockpilot_identity::tls::{self, Own};
use sockpilot_tests::{
    hostile::{Hostile, Misdeed},
    process,
    server::Server,
};
use tokio::time::sleep;

/// The argument that makes this program the hostile node.
pub const ARGUMENT: &str = "misdeeds";
const ID: &str = "hostile";
/// The least that the kernel gives, among the threads of a session and among sessions.
const NICENESS: i32 = 19;
/// Between two misdeeds.
const REST: Duration = Duration::from_millis(100);

/// The process; it ends with the guard.
pub struct Villain {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Villain {
    /// With a certificate of its own, against a victim among the others. It rests at first.
    pub fn start(server: &Server<'_>, victim: &str) -> Result<Self> {
        let pki = server.pki()?;
        let own = pki.issue(ID, &format!("node/{ID}"), Duration::from_secs(3_600))?;
        let mut command = process::this()?;
        command.args([ARGUMENT, &server.node_url(), victim]);
        command.args([&pki.file("ca.pem"), &own.certificate, &own.key]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        process::end_with_parent(&mut command, Signal::SIGKILL);
        let mut child = command.spawn().context("starting the hostile node")?;
        let orders = child.stdin.take().context("it has no input")?;
        let answers = BufReader::new(child.stdout.take().context("it has no output")?);
        Ok(Self { child, orders, answers })
    }

    /// Has it act, or rest, from now on. Answers with how many misdeeds it has done.
    pub fn acts(&mut self, acts: bool) -> Result<u64> {
        writeln!(self.orders, "{}", if acts { "act" } else { "rest" }).context("telling the hostile node")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("listening to the hostile node")?;
        line.trim().parse().with_context(|| format!("the hostile node says {line:?}"))
    }
}

impl Drop for Villain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The inside of the process: does as it is told until its input ends.
///
/// # Errors
/// Whatever goes wrong, but for the misdeeds.
pub fn misbehave(arguments: &[String]) -> Result<()> {
    let [url, victim, ca, certificate, key] = arguments else { anyhow::bail!("the hostile node takes five arguments") };
    setsid().context("a session of its own")?;
    fs::write("/proc/self/autogroup", NICENESS.to_string()).context("letting other sessions go first")?;
    setpriority_process(None, NICENESS).context("letting others go first")?;
    let own = Own { certificate: certificate.into(), key: key.into() };
    let tls = Arc::new(tls::client(Path::new(ca), Some(&own))?);
    let hostile = Hostile { id: ID.to_owned(), victim: victim.clone(), url: url.clone(), tls };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (acts, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    for misdeeds in at_once() {
        runtime.spawn(keep_at_it(hostile.clone(), misdeeds, acts.clone(), done.clone()));
    }
    for order in io::stdin().lock().lines() {
        acts.store(order.context("reading an order")? == "act", Ordering::Relaxed);
        println!("{}", done.load(Ordering::Relaxed));
        io::stdout().flush().context("answering")?;
    }
    Ok(())
}

/// What waits for the server's patience does not keep the rest waiting.
fn at_once() -> impl Iterator<Item = Vec<Misdeed>> {
    let waits = |misdeed: &Misdeed| {
        matches!(misdeed, Misdeed::SlowReports | Misdeed::HalfOpen | Misdeed::Silence | Misdeed::Connections)
    };
    let (patient, quick): (Vec<_>, Vec<_>) = Misdeed::ALL.into_iter().partition(waits);
    patient.into_iter().map(|misdeed| vec![misdeed]).chain([quick])
}

async fn keep_at_it(hostile: Hostile, misdeeds: Vec<Misdeed>, acts: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    for misdeed in misdeeds.iter().cycle() {
        while !acts.load(Ordering::Relaxed) {
            sleep(REST).await;
        }
        // One that is refused for another reason than by itself has come to nothing as well.
        let _ = hostile.act(*misdeed).await;
        done.fetch_add(1, Ordering::Relaxed);
        sleep(REST).await;
    }
}

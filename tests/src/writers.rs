//! People who change policies all the time, one change after the other, through any of several servers; and what came of each call.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sockpilot_proto::v1::{self, fleet_service_client::FleetServiceClient, policy_service_client::PolicyServiceClient};
use tokio::{runtime::Runtime, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

use crate::{
    admin::everyone,
    documents::{clamp, policy, rule},
    history::{Outcome, Read, Write},
    pki,
    random::Random,
    wait::eventually,
};

/// Of a call; then it goes to the next server.
const CALL: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);
/// Between a change and the next.
const REST: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);
/// Values of one writer.
const VALUES: u32 = 1_000;
const FIRST_VALUE: u32 = 20;

/// What they did.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// Changes.
    pub writes: Vec<Write>,
    /// Questions.
    pub reads: Vec<Read>,
}

/// They go on until they are stopped.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    done: Mutex<Done>,
    acknowledged: AtomicU64,
    stop: CancellationToken,
}

impl Writers {
    /// Starts so many, two for each policy.
    ///
    /// # Errors
    /// If an address is none.
    pub fn start(runtime: &Runtime, urls: &[String], number: u32, seed: u64) -> Result<Self> {
        let _guard = runtime.enter();
        let channels: Vec<_> = urls.iter().map(|url| pki::channel(url, None, Some(CALL))).collect::<Result<_>>()?;
        let (done, acknowledged, stop) = (Mutex::default(), AtomicU64::new(0), CancellationToken::new());
        let shared = Arc::new(Shared { began: Instant::now(), done, acknowledged, stop });
        let mut tasks = JoinSet::new();
        for writer in 0..number {
            let random = Random(seed ^ (u64::from(writer) << 32));
            tasks.spawn(write(writer, channels.clone(), random, shared.clone()));
        }
        Ok(Self { shared, tasks })
    }

    /// Changes that were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more were acknowledged.
    ///
    /// # Errors
    /// If they are not.
    pub fn go_on(&self, more: u64) -> Result<()> {
        let before = self.acknowledged();
        eventually(&format!("{more} more changes are acknowledged"), PATIENCE, || {
            let now = self.acknowledged();
            ensure!(now >= before + more, "{}", now - before);
            Ok(())
        })
    }

    /// Waits for the answers to what is under way, as far as any come, and says what they did.
    pub fn stop(mut self, runtime: &Runtime) -> Done {
        self.shared.stop.cancel();
        runtime.block_on(async { while self.tasks.join_next().await.is_some() {} });
        self.shared.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn write(writer: u32, channels: Vec<Channel>, mut random: Random, shared: Arc<Shared>) {
    let name = format!("p{}", writer / 2);
    for number in 0..VALUES {
        if shared.stop.is_cancelled() {
            return;
        }
        let value = FIRST_VALUE + writer * VALUES + number;
        let request = v1::UpdatePolicyRequest {
            policy: Some(policy(&name, 10, vec![rule("all", v1::Match::default(), clamp(value))])),
            allow_missing: true,
            target: Some(everyone()),
            reason: "a test".to_owned(),
            request_id: uuid(&mut random),
            ..v1::UpdatePolicyRequest::default()
        };
        let invoked = shared.began.elapsed();
        let outcome = ask(&request, &channels, &mut random, &shared).await;
        let name = format!("policies/{name}");
        let write = Write { name: name.clone(), value, invoked, returned: shared.began.elapsed(), outcome };
        shared.done.lock().unwrap_or_else(PoisonError::into_inner).writes.push(write);
        if matches!(outcome, Outcome::Acknowledged(_)) {
            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            let channel = &channels[random.bits() as usize % channels.len()];
            read(&name, channel.clone(), &shared).await;
        }
        sleep(REST.mul_f64(random.share())).await;
    }
}

/// The same request until it is answered, by whichever server; a last time when they are stopped.
async fn ask(request: &v1::UpdatePolicyRequest, channels: &[Channel], random: &mut Random, shared: &Shared) -> Outcome {
    loop {
        let last = shared.stop.is_cancelled();
        let channel = channels[random.bits() as usize % channels.len()].clone();
        match PolicyServiceClient::new(channel).update_policy(request.clone()).await {
            Ok(answer) => return Outcome::Acknowledged(answer.into_inner().revision),
            Err(status) if status.code() == Code::InvalidArgument => return Outcome::Refused,
            Err(_) if last => return Outcome::Unknown,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn read(name: &str, channel: Channel, shared: &Shared) {
    let invoked = shared.began.elapsed();
    let request = v1::GetLayerStatusRequest { name: name.to_owned() };
    if let Ok(answer) = FleetServiceClient::new(channel).get_layer_status(request).await {
        let read = Read { name: name.to_owned(), invoked, revision: answer.into_inner().latest_revision };
        shared.done.lock().unwrap_or_else(PoisonError::into_inner).reads.push(read);
    }
}

fn uuid(random: &mut Random) -> String {
    let (high, low) = (random.bits(), random.bits());
    let (first, second, third) = (high >> 32, high >> 16 & 0xffff, high & 0xfff);
    format!("{first:08x}-{second:04x}-4{third:03x}-8{:03x}-{:012x}", low >> 52, low & 0xffff_ffff_ffff)
}

//! A recorded flow, understood.

use std::net::IpAddr;

use prost_types::Timestamp;
use sockpilot_policy::{
    address::{Family, address_bytes},
    decide::Flow,
    layout::FlowKey,
    model::Direction,
};
use sockpilot_proto::v1;

use crate::notes::Note;

/// A greater weight is no number of connections.
const WEIGHT_MAX: f64 = 9_007_199_254_740_992.0;

/// A recorded flow that can be decided about and counts.
#[derive(Debug)]
pub(crate) struct Recorded<'a> {
    /// As it was recorded.
    pub(crate) sample: &'a v1::FlowSample,
    /// Both ends.
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) direction: Direction,
    local_port: u16,
    remote_port: u16,
}

impl<'a> Recorded<'a> {
    /// Reads one; or why it is left out.
    pub(crate) fn read(sample: &'a v1::FlowSample) -> Result<Self, Note> {
        match sample.weight {
            _ if sample.outcome() == v1::Outcome::StillOpen => return Err(Note::StillOpen),
            weight if !(weight > 0.0 && weight <= WEIGHT_MAX) => return Err(Note::NoWeight),
            _ => {}
        }
        Self::ends(sample).ok_or(Note::Unreadable)
    }

    fn ends(sample: &'a v1::FlowSample) -> Option<Self> {
        let direction = match sample.direction() {
            v1::Direction::Active => Direction::Active,
            v1::Direction::Passive => Direction::Passive,
            v1::Direction::Unspecified => return None,
        };
        let address = |text: &str| text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        let (local, remote) = (address(&sample.local_address)?, address(&sample.remote_address)?);
        let port = |port: u32| u16::try_from(port).ok();
        let (local_port, remote_port) = (port(sample.local_port)?, port(sample.remote_port)?);
        let sound = local.is_ipv4() == remote.is_ipv4() && sample.close_time.is_some();
        sound.then_some(Self { sample, local, remote, direction, local_port, remote_port })
    }

    /// As decisions ask.
    pub(crate) fn flow(&self) -> Flow<'_> {
        let family = if self.local.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let v1::FlowSample { service, handshake_rtt_us, .. } = self.sample;
        Flow {
            key: FlowKey {
                local: address_bytes(self.local),
                remote: address_bytes(self.remote),
                local_port: self.local_port,
                remote_port: self.remote_port,
                family: family.code(),
                direction: self.direction.code(),
                reserved: 0,
            },
            service: (!service.is_empty()).then_some(service),
            handshake_rtt_us: (*handshake_rtt_us > 0).then_some(*handshake_rtt_us),
            begin_s: Some(self.begin_s()),
        }
    }

    /// When it began; if it does not say how long it lasted, when it ended.
    fn begin_s(&self) -> u64 {
        let Timestamp { seconds, nanos } = self.end();
        let end_us = i128::from(seconds) * 1_000_000 + i128::from(nanos / 1_000);
        u64::try_from((end_us - i128::from(self.sample.duration_us)) / 1_000_000).unwrap_or_default()
    }

    pub(crate) fn end(&self) -> Timestamp {
        self.sample.close_time.unwrap_or_default()
    }

    /// Whether a layer matched it, which decides how often such flows are recorded.
    pub(crate) fn matched(&self) -> bool {
        !self.sample.attributions.is_empty()
    }

    pub(crate) fn weight(&self) -> f64 {
        self.sample.weight
    }
}

//! Asking the kernel program itself what a flow would get.

use std::os::fd::{AsFd, OwnedFd};

use aya::programs::SchedClassifier;
use sockpilot_policy::layout::{FlowKey, ProbeInput, Stamp};

use super::{
    KernelError, Map, Options,
    object::{load, program, refused},
    plain::Plain,
    sides,
};

/// The program's second entry, over the tables of a running kernel side.
#[derive(Debug)]
pub struct Probe {
    program: OwnedFd,
    probed: Map<Stamp>,
    _object: aya::Ebpf,
}

impl Probe {
    /// Opens it beside a kernel side that was made before.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn open(options: &Options) -> Result<Self, KernelError> {
        let mut object = load(&sides::own(&options.pin_dir)?, &[])?;
        let map =
            object.take_map("PROBED").ok_or_else(|| KernelError::Load("the object lacks the map PROBED".into()))?;
        let classifier: &mut SchedClassifier = program(&mut object, "probe")?;
        classifier.load().map_err(refused)?;
        let program = classifier.fd().map_err(refused)?.as_fd().try_clone_to_owned().map_err(duplicate)?;
        let aya::maps::Map::Array(map) = map else {
            return Err(KernelError::Load("the map PROBED is of another type".into()));
        };
        let fd = map.fd().as_fd().try_clone_to_owned().map_err(duplicate)?;
        let probed = Map { name: "PROBED", fd, value: std::marker::PhantomData };
        Ok(Self { program, probed, _object: object })
    }

    /// What a flow would get now: choices and values, as they would be stamped. `service` is the mask of its service.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn decide(&self, flow: &FlowKey, service: u16, handshake_rtt_us: Option<u32>) -> Result<Stamp, KernelError> {
        self.probed.set(0, &Stamp::zeroed())?;
        self.run(flow, service, handshake_rtt_us, 1)?;
        self.probed.get(0)
    }

    /// The mean duration of a decision in nanoseconds.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn duration_ns(&self, flow: &FlowKey, service: u16, repeat: u32) -> Result<u32, KernelError> {
        self.run(flow, service, None, repeat)
    }

    fn run(
        &self,
        flow: &FlowKey,
        service: u16,
        handshake_rtt_us: Option<u32>,
        repeat: u32,
    ) -> Result<u32, KernelError> {
        let handshake_rtt_us = handshake_rtt_us.unwrap_or(0);
        let input = ProbeInput { flow: *flow, service: u32::from(service), handshake_rtt_us };
        let (_, duration_ns) = super::sys::test_run(self.program.as_fd(), input.bytes(), repeat)?;
        Ok(duration_ns)
    }
}

fn duplicate(source: std::io::Error) -> KernelError {
    KernelError::Call { call: "fcntl", subject: "file descriptor".to_owned(), source }
}

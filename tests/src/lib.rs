//! The harness with which sockpilot is tested from outside: real binaries, a real kernel, real connections.
//!
//! A test builds its own world out of guards and leaves nothing behind, however it ends: [`netns`] (anonymous network
//! namespaces), [`link`] (an emulated link between two of them: delay, loss, rate, queue), [`cgroup`], [`traffic`] (processes
//! inside both that open connections and look at them), [`postgres`], [`server`] and [`node`] (the binaries under test) and
//! [`admin`] (the API as a person's tool sees it). [`machine`] says whether this machine allows all that.
//!
//! What dies with the process that made it (namespaces, TUN devices, child processes) needs no cleaning even after kill -9; what
//! does not (cgroups, pins, folders) carries the process id in its name, and the next run sweeps it away.

pub mod admin;
pub mod cgroup;
pub mod clock;
pub mod control;
pub mod cprogram;
pub mod crowd;
pub mod disk;
pub mod documents;
pub mod experiments;
pub mod fleet;
pub mod history;
pub mod hostile;
pub mod light;
pub mod link;
pub mod machine;
pub mod netns;
pub mod node;
pub mod packet;
pub mod peer;
pub mod pki;
pub mod played;
pub mod postgres;
pub mod privileges;
pub mod process;
pub mod random;
pub mod relay;
pub mod rollouts;
pub mod seen;
pub mod server;
pub mod shaper;
pub mod simulate;
pub mod simulated;
pub mod traffic;
pub mod trial;
pub mod wait;
pub mod world;
pub mod writers;

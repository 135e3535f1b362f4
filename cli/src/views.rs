//! What people see: tables made of messages. Pure.

pub mod access;
pub mod amount;
pub mod audit;
pub mod doctor;
pub mod documents;
pub mod experiment;
pub mod explanation;
pub mod fleet;
pub mod interval;
pub mod outcomes;
pub mod report;
pub mod rollout;
pub mod servers;
pub mod simulation;
pub mod status;
pub mod switches;

//! The server from outside: a real Postgres, real TCP, a real gRPC client.

mod assignments;
mod documents;
mod explain;
mod faults;
mod fleet;
mod outages;
mod reports;
mod streams;
mod tasks;
mod world;
mod zones;

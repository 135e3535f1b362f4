//! The server from outside: a real Postgres, real TCP, a real gRPC client.

mod assignments;
mod backups;
mod documents;
mod explain;
mod faults;
mod fleet;
mod outages;
mod reach;
mod reports;
mod streams;
mod world;
mod zones;

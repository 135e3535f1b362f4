//! The server from outside: a real Postgres, real TCP, a real gRPC client.

mod assignments;
mod backups;
mod controllers;
mod database;
mod documents;
mod experiments;
mod explain;
mod faults;
mod fleet;
mod health;
mod held_back;
mod holders;
mod layers;
mod lifecycle;
mod measured;
mod outages;
mod outcomes;
mod reach;
mod reports;
mod rollouts;
mod simulate;
mod streams;
mod tasks;
mod waves;
mod world;
mod zones;

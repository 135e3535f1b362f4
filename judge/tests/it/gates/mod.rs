//! Gates of rollouts: every verdict, and what no verdict may ever be.

mod made;
mod nodes;
mod sound;
mod verdicts;

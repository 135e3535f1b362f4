//! The environment: a variable that is set to nothing is not set. Files of environment variables often have lines like `NAME=`.

use clap::{Arg, Command, Parser};

/// The value of a variable.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// The arguments of this program from its command line and environment; ends it if they will not do.
#[must_use]
pub fn arguments<A: Parser>() -> A {
    let mut command = without_empty(A::command());
    let mut matches = command.get_matches_mut();
    A::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

fn without_empty(command: Command) -> Command {
    command.mut_args(|argument| if is_empty(&argument) { argument.env(None) } else { argument })
}

fn is_empty(argument: &Arg) -> bool {
    let value = argument.get_env().and_then(std::env::var_os);
    value.is_some_and(|value| value.to_str().is_some_and(|text| text.trim().is_empty()))
}

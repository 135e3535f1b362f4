//! Makes traffic for tests: reads orders from its standard input, answers on its standard output. See `traffic`.

use std::io::{self, BufRead, Write};

use anyhow::{Context, Result};
use sockpilot_tests::traffic::worker::Worker;

fn main() -> Result<()> {
    let mut worker = Worker::default();
    for line in io::stdin().lock().lines() {
        let order = serde_json::from_str(&line.context("reading an order")?).context("understanding an order")?;
        let mut answer = serde_json::to_string(&worker.obey(order)).context("writing an answer")?;
        answer.push('\n');
        io::stdout().write_all(answer.as_bytes()).context("writing an answer")?;
        io::stdout().flush().context("writing an answer")?;
    }
    Ok(())
}

//! What is looked at until somebody has seen enough; and `status`, once.

use crate::args::Format;
use crate::client::Client;
use crate::failure::Failure;
use crate::name::{Collection, LayerName};
use crate::output::{self, print};
use crate::views;
use std::io::IsTerminal;
use std::time::Duration;

/// Between two looks at a status.
pub const PERIOD: Duration = Duration::from_secs(1);

/// What was seen.
pub struct Look {
    pub text: String,
    /// Whether it stays so.
    pub is_last: bool,
}

/// The status of one, or of everything; for people with what is turned off.
pub async fn show(name: Option<&LayerName>, client: &Client, format: Format) -> Result<String, Failure> {
    let off = match format {
        Format::Table => views::switches::notice(&client.off().await?),
        Format::Json | Format::Jsonl | Format::Yaml => String::new(),
    };
    if let Some(name) = name {
        let status = client.status(name).await?;
        let text = output::message(format, "LayerStatus", &status, |s| views::status::table(std::slice::from_ref(s)));
        return Ok(text + &off);
    }
    let mut statuses = Vec::new();
    for collection in Collection::ALL {
        for document in client.list(collection).await? {
            let name = document.name().parse::<LayerName>().map_err(Failure::Input)?;
            statuses.push(client.status(&name).await?);
        }
    }
    Ok(output::messages(format, "LayerStatus", &statuses, views::status::table) + &off)
}

/// Looks again and again until it stays so: shows it on a terminal in place, elsewhere whenever it has changed. A server that goes away for a while does
/// not end the watch.
pub async fn run(
    look: impl AsyncFn() -> Result<Look, Failure>,
    period: Duration,
    format: Format,
) -> Result<(), Failure> {
    let in_place = std::io::stdout().is_terminal() && format == Format::Table;
    let mut shown = String::new();
    let looking = async {
        loop {
            let Look { text, is_last } = match look().await {
                Ok(look) => look,
                Err(Failure::Unreachable(why)) if !shown.is_empty() => {
                    if !in_place {
                        eprintln!("{why}");
                    }
                    Look { text: format!("{}\n{why}\n", shown.trim_end()), is_last: false }
                }
                Err(failure) => return Err(failure),
            };
            if in_place {
                print(&frame(&text))?;
            } else if text != shown {
                print(&text)?;
            }
            if is_last {
                return Ok(());
            }
            shown = text;
            tokio::time::sleep(period).await;
        }
    };
    tokio::select! {
        result = looking => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Overwrites what stands on the screen, without the flicker of clearing it first.
fn frame(text: &str) -> String {
    let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("\x1b[H{lines}\x1b[J")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_overwrites_the_last_one() {
        assert_eq!(frame("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}

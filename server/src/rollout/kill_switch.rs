//! Switches policies and experiments off, past every rollout.

use serde_json::json;

use crate::{
    change::{author::Author, difference::Difference},
    store::{
        Result, audit,
        connection::PgConnection,
        control,
        kill_switch::{self, Off},
    },
};

/// Switches something off or on again; nothing happens where it is so already. Answers with what is known of it, if it is off.
///
/// # Errors
/// If the database fails.
pub async fn set(conn: &mut PgConnection, author: &Author, target: &str, off: bool) -> Result<Option<Off>> {
    control::lock(&mut *conn).await?;
    let changed = match off {
        true => kill_switch::off(&mut *conn, target, author.reason(), &author.actor()).await?,
        false => kill_switch::on(&mut *conn, target).await?,
    };
    if changed {
        let generation = control::bump(&mut *conn).await?;
        let difference = Difference::between(&json!({ "off": !off }), &json!({ "off": off }));
        let subject = audit::Subject { method: "SetKillSwitch", name: target, revision: 0, generation, difference };
        audit::add(&mut *conn, author, &subject).await?;
    }
    let all = kill_switch::list(conn).await?;
    Ok(all.into_iter().find(|off| off.target == target))
}

//! The nodes of a canary, by wave.

use sockpilot_policy::{model::LayerName, validate::node_id};
use sockpilot_proto::v1;

use super::{
    assignment,
    connection::PgConnection,
    error::{Error, Operation, Result},
    layer::object,
    status::state,
};
use crate::{target::Target, wave::WAVES_MAX};

/// Where a member stands in the list, as a page token has it.
#[must_use]
pub fn key_of(member: &v1::Member) -> String {
    format!("{}/{}", member.wave, member.node.trim_start_matches("nodes/"))
}

/// Reads what [`key_of`] wrote: wave and node id.
#[must_use]
pub fn key(text: &str) -> Option<(u32, String)> {
    let (wave, id) = text.split_once('/')?;
    let wave = wave.parse().ok().filter(|wave| (1..=WAVES_MAX as u32).contains(wave))?;
    Some((wave, node_id(id).ok()?))
}

/// The members after a place in the list, of one wave or (0) of all; if there can be none, the field that is to blame, and why.
///
/// # Errors
/// If there is no such policy or experiment, or the database fails.
pub async fn list(
    conn: &mut PgConnection,
    name: &LayerName,
    wave: u32,
    after: Option<(u32, String)>,
    limit: i64,
) -> Result<(Vec<v1::Member>, Option<(&'static str, String)>)> {
    let there = object(&mut *conn, name).await?.is_some_and(|object| !object.deleted);
    if !there {
        return Err(Error::NotFound { name: name.to_string() });
    }
    let held = assignment::in_force(&mut *conn, name).await?;
    let canary =
        held.iter().find_map(|held| if let Target::Canary(canary) = &held.target { Some(canary) } else { None });
    let Some(canary) = canary else {
        return Ok((vec![], Some(("name", format!("{name} has no canary, so no node is in a wave")))));
    };
    if wave as usize > canary.waves.len() {
        let why = format!("the canary has {}, and no wave {wave}", waves(canary.waves.len()));
        return Ok((vec![], Some(("wave", why))));
    }
    let (after_wave, after_node) = after.unwrap_or_default();
    let rows: Vec<(i16, String, i64, String)> = sqlx::query_as(
        "SELECT wave, node_id, revision, state FROM node_assignment JOIN node_layer_state USING (node_id, layer)
         WHERE layer = $1 AND wave IS NOT NULL AND ($2 = 0 OR wave = $2) AND (wave, node_id) > ($3, $4)
         ORDER BY wave, node_id LIMIT $5",
    )
    .bind(name.to_string())
    .bind(wave.cast_signed())
    .bind(after_wave.cast_signed())
    .bind(after_node)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("member.list")?;
    let member = |(wave, node_id, revision, word): (i16, String, i64, String)| {
        let (wave, revision) = (u32::from(wave.cast_unsigned()), revision.cast_unsigned());
        Ok(v1::Member { node: format!("nodes/{node_id}"), wave, revision, state: state(&word)?.into() })
    };
    Ok((rows.into_iter().map(member).collect::<Result<_>>()?, None))
}

fn waves(number: usize) -> String {
    if number == 1 { "1 wave".to_owned() } else { format!("{number} waves") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_list_is_read_back() {
        let member = v1::Member { node: "nodes/web-1".to_owned(), wave: 3, ..v1::Member::default() };
        assert_eq!(key(&key_of(&member)), Some((3, "web-1".to_owned())));
        for bad in ["", "3", "0/web", "65/web", "x/web", "3/", "3/W", "3/a/b"] {
            assert_eq!(key(bad), None, "{bad}");
        }
    }
}

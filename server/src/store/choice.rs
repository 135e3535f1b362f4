//! What flows can have had, by number: cells name a rule or an arm in four bytes.

use std::{collections::HashMap, sync::Arc};

use sockpilot_outcomes::Choice;

use super::{
    connection::PgConnection,
    error::{Operation, Result},
};

/// The numbers of these choices; of new ones, too.
pub async fn ids(conn: &mut PgConnection, choices: &[Arc<Choice>]) -> Result<HashMap<Arc<Choice>, i32>> {
    let mut wanted = choices.to_vec();
    // In one order, so that reports do not wait for each other in a circle.
    wanted.sort();
    wanted.dedup();
    let mut found = known(&mut *conn, &wanted).await?;
    wanted.retain(|choice| !found.contains_key(choice));
    if !wanted.is_empty() {
        let (layer, revision, choice) = columns(&wanted);
        sqlx::query(
            "INSERT INTO outcome_choice (layer, revision, choice) SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])
             ON CONFLICT DO NOTHING",
        )
        .bind(layer)
        .bind(revision)
        .bind(choice)
        .execute(&mut *conn)
        .await
        .during("choice.add")?;
        found.extend(known(conn, &wanted).await?);
    }
    Ok(found)
}

fn columns(choices: &[Arc<Choice>]) -> (Vec<&str>, Vec<i64>, Vec<&str>) {
    let (mut layers, mut revisions, mut names) = (vec![], vec![], vec![]);
    for choice in choices {
        let Choice { layer, revision, name } = &**choice;
        layers.push(layer.as_str());
        revisions.push(revision.cast_signed());
        names.push(name.as_str());
    }
    (layers, revisions, names)
}

async fn known(conn: &mut PgConnection, choices: &[Arc<Choice>]) -> Result<HashMap<Arc<Choice>, i32>> {
    let (layer, revision, choice) = columns(choices);
    let rows: Vec<(i64, i32)> = sqlx::query_as(
        "SELECT at, choice_id
         FROM unnest($1::text[], $2::bigint[], $3::text[]) WITH ORDINALITY AS wanted (layer, revision, choice, at)
         JOIN outcome_choice USING (layer, revision, choice)",
    )
    .bind(layer)
    .bind(revision)
    .bind(choice)
    .fetch_all(conn)
    .await
    .during("choice.known")?;
    let named = |(at, id): (i64, i32)| Some((choices.get(usize::try_from(at).ok()?.checked_sub(1)?)?.clone(), id));
    Ok(rows.into_iter().filter_map(named).collect())
}

/// A rule or an arm with its number.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Known {
    pub choice_id: i32,
    /// Of which revision.
    pub revision: i64,
    pub choice: String,
}

/// All that flows ever had of a layer; with a revision, of this one.
pub async fn of_layer(conn: &mut PgConnection, layer: &str, revision: Option<i64>) -> Result<Vec<Known>> {
    sqlx::query_as(
        "SELECT choice_id, revision, choice FROM outcome_choice WHERE layer = $1 AND ($2::bigint IS NULL OR revision = $2)",
    )
    .bind(layer)
    .bind(revision)
    .fetch_all(conn)
    .await
    .during("choice.of_layer")
}

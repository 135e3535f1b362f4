//! Partitions of the flow cells: made ahead of time and on demand, dropped as a whole. Functions of the database do it, as the owner of
//! the tables: the role that a server runs with owns none.

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};

/// Seconds in a partition.
pub const LENGTH_S: i64 = 6 * 3_600;
/// Partitions there may be; what would need more is put off until some were dropped.
pub const PARTITIONS_MAX: usize = 2_000;

const PREFIX: &str = "flow_cell_";
/// Held while partitions are made, because making one twice is an error.
const LOCK: i64 = 7_460_746_074_607_461;

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    /// Its first second.
    pub start_s: i64,
    /// What it takes on disk, with its index.
    pub bytes: i64,
}

impl Partition {
    /// The first second after it.
    #[must_use]
    pub fn end_s(self) -> i64 {
        self.start_s + LENGTH_S
    }
}

/// The first second of the partition that a second is in.
#[must_use]
pub fn start_of(second: i64) -> i64 {
    second - second.rem_euclid(LENGTH_S)
}

/// Makes the partitions for these seconds that are not there.
///
/// # Errors
/// If there are too many, or the database fails.
pub async fn ensure(conn: &mut PgConnection, seconds: impl IntoIterator<Item = i64>) -> Result<usize> {
    let mut starts: Vec<i64> = seconds.into_iter().map(start_of).collect();
    starts.sort_unstable();
    starts.dedup();
    let missing = missing(&mut *conn, &starts).await?;
    if missing.is_empty() {
        return Ok(0);
    }
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *conn).await.during("partition.lock")?;
    // Another server may have made them meanwhile.
    let missing = self::missing(&mut *conn, &missing).await?;
    if missing.len() + list(&mut *conn).await?.len() > PARTITIONS_MAX {
        return Err(Error::TooManyPartitions { max: PARTITIONS_MAX });
    }
    for start_s in &missing {
        let query = sqlx::query("SELECT make_flow_cells($1, $2)").bind(start_s).bind(start_s + LENGTH_S);
        query.execute(&mut *conn).await.during("partition.make")?;
    }
    Ok(missing.len())
}

async fn missing(conn: &mut PgConnection, starts: &[i64]) -> Result<Vec<i64>> {
    // Not `to_regclass`, which may look at what this session knew before another one made the partition.
    sqlx::query_scalar(
        "SELECT start_s FROM unnest($1::bigint[]) AS start_s WHERE NOT EXISTS (
             SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
             WHERE inhparent = 'flow_cell'::regclass AND relname = $2 || start_s)",
    )
    .bind(starts)
    .bind(PREFIX)
    .fetch_all(conn)
    .await
    .during("partition.missing")
}

/// All partitions, oldest first.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<Partition>> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT substr(relname, length($1) + 1)::bigint, pg_total_relation_size(pg_class.oid)
         FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'flow_cell'::regclass ORDER BY 1",
    )
    .bind(PREFIX)
    .fetch_all(conn)
    .await
    .during("partition.list")?;
    Ok(rows.into_iter().map(|(start_s, bytes)| Partition { start_s, bytes }).collect())
}

/// Keeps reports out of a partition until the transaction ends: they wait.
pub async fn lock(conn: &mut PgConnection, partition: Partition) -> Result<()> {
    let query = sqlx::query("SELECT lock_flow_cells($1)").bind(partition.start_s);
    query.execute(conn).await.during("partition.lock").map(std::mem::drop)
}

/// Drops a partition, and notes that its time is gone.
pub async fn drop(conn: &mut PgConnection, partition: Partition) -> Result<()> {
    sqlx::query("UPDATE outcome_kept SET cells_from_s = greatest(cells_from_s, $1)")
        .bind(partition.end_s())
        .execute(&mut *conn)
        .await
        .during("partition.drop")?;
    let query = sqlx::query("SELECT drop_flow_cells($1)").bind(partition.start_s);
    query.execute(conn).await.during("partition.drop").map(std::mem::drop)
}

//! A client that does nothing but write the cells of reports with COPY, into a table like the server's: what the database takes of them at most.

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};

/// Of the binary form: what it begins with, no flags, no extension.
const HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const FIELDS: i16 = 8;
const COPY: &str =
    "COPY flow_cell (sequence, source_id, interval_length_s, interval_start_s, choice_id, direction, size_class, value)
    FROM STDIN (FORMAT binary)";

/// A table with the columns and keys of the server's.
pub const TABLE: &str =
    "CREATE TABLE flow_cell (interval_start_s bigint, sequence bigint, choice_id integer, source_id integer,
    interval_length_s integer, direction smallint, size_class smallint, value bytea,
    PRIMARY KEY (interval_start_s, choice_id, source_id, direction, size_class, interval_length_s))";

/// A row of it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub start_s: i64,
    pub source_id: i32,
    pub choice_id: i32,
    pub direction: i16,
    pub size_class: i16,
    pub value: &'a [u8],
}

/// A connection of its own.
pub struct Copier(PgConnection);

impl Copier {
    pub async fn connect(url: &str) -> Result<Self> {
        PgConnection::connect(url).await.map(Self).context("connecting a bare client")
    }

    /// Writes rows and commits them.
    pub async fn write(&mut self, sequence: i64, rows: impl Iterator<Item = Row<'_>>) -> Result<()> {
        let mut bytes = HEADER.to_vec();
        for Row { start_s, source_id, choice_id, direction, size_class, value } in rows {
            let length_s = 60_i32;
            bytes.extend_from_slice(&FIELDS.to_be_bytes());
            for field in [
                sequence.to_be_bytes().as_slice(),
                &source_id.to_be_bytes(),
                &length_s.to_be_bytes(),
                &start_s.to_be_bytes(),
                &choice_id.to_be_bytes(),
                &direction.to_be_bytes(),
                &size_class.to_be_bytes(),
                value,
            ] {
                bytes.extend_from_slice(&i32::try_from(field.len()).context("a large value")?.to_be_bytes());
                bytes.extend_from_slice(field);
            }
        }
        bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        let mut copy = self.0.copy_in_raw(COPY).await.context("beginning to copy")?;
        copy.send(bytes).await.context("copying")?;
        copy.finish().await.context("ending to copy").map(drop)
    }
}

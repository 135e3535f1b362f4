//! The schema on Postgres with Citus: every table says where it is, and what is in shards keeps the rules that Citus has for that.

use std::{collections::BTreeMap, fs, path::Path};

use sockpilot_server::{
    store::{Error, Result},
    test_support,
};

use crate::world::World;

/// Statements on a table in shards that go to all of them, by file of the store: none is in the path of a report, a confirmation or a sign of
/// life.
const CROSS_SHARD: [(&str, &str); 4] = [
    ("experiment.rs", "asked by people, and by the judge of experiments every ten seconds"),
    ("measured.rs", "asked by the judge of rollouts"),
    ("outcome.rs", "asked by people"),
    ("rollup.rs", "merges what is over, once"),
];
/// What reads the catalogue, not the table.
const CATALOGUE: &str = "partition.rs";

/// The answer to a question about the catalogue, asked by the owner of the schema.
async fn rows<T>(sql: &'static str) -> Vec<T>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin + 'static,
{
    let config = test_support::config().await;
    World::of(config.clone()).await.server.stop().await;
    let owner = test_support::owner_store(&config).await;
    let read = owner.read("catalogue", move |conn| {
        Box::pin(async move {
            let failed = |source| Error::Database { operation: "test", source };
            let rows: Result<Vec<T>> = sqlx::query_as(sql).fetch_all(conn).await.map_err(failed);
            rows
        })
    });
    read.await.expect("rows")
}

/// Tables in shards, and the column that says in which.
async fn distributed() -> BTreeMap<String, String> {
    let said = rows::<(String, Option<String>)>(
        "SELECT relname, obj_description(oid, 'pg_class') FROM pg_class
         WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
             AND relname <> '_sqlx_migrations'",
    );
    let mut distributed = BTreeMap::new();
    for (table, comment) in said.await {
        let comment =
            comment.unwrap_or_else(|| panic!("{table} does not say where it is: COMMENT ON TABLE, as in 0019"));
        let (place, why) = comment.split_once("; ").unwrap_or((&comment, ""));
        assert!(!why.is_empty(), "{table} does not say why: {comment}");
        match place.strip_prefix("distribution: ") {
            Some("local") => {}
            Some(place) => {
                let column = place.strip_prefix("by ").unwrap_or_else(|| panic!("{table}: {comment}"));
                distributed.insert(table, column.to_owned());
            }
            None => panic!("{table}: {comment}"),
        }
    }
    distributed
}

#[tokio::test]
async fn every_table_says_where_it_is_and_keys_of_shards_are_whole() {
    let distributed = distributed().await;
    assert_eq!(distributed, [("flow_cell".to_owned(), "source_id".to_owned())].into());

    let keys = rows::<(String, String, Vec<String>)>(
        "SELECT indrelid::regclass::text, indexrelid::regclass::text,
             array(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY(indkey))
         FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
         WHERE relnamespace = current_schema()::regnamespace AND indisunique AND relkind IN ('r', 'p')",
    );
    let mut checked = 0;
    for (table, key, columns) in keys.await {
        if let Some(column) = distributed.get(&table) {
            assert!(columns.contains(column), "{key} lacks {column}: {columns:?}");
            checked += 1;
        }
    }
    assert!(checked > 0, "there are keys");

    let references = rows::<(String, String, String)>(
        "SELECT conrelid::regclass::text, confrelid::regclass::text, conname::text FROM pg_constraint WHERE contype = 'f'",
    );
    for (from, to, name) in references.await {
        assert!(!distributed.contains_key(&from) && !distributed.contains_key(&to), "{name} leads across shards");
    }
    let more = rows::<(String, String)>(
        "SELECT tgrelid::regclass::text, 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal
         UNION SELECT attrelid::regclass::text, 'identity ' || attname FROM pg_attribute WHERE attidentity <> ''
         UNION SELECT conrelid::regclass::text, 'exclusion ' || conname FROM pg_constraint WHERE contype = 'x'",
    );
    for (table, what) in more.await {
        assert!(!distributed.contains_key(&table), "{table} has what Citus has not in shards: {what}");
    }
}

/// Texts between quotes that stand in a source.
fn literals(source: &str) -> Vec<&str> {
    source.split('"').skip(1).step_by(2).collect()
}

#[tokio::test]
async fn statements_on_shards_name_one_unless_they_are_out_of_the_way() {
    let distributed = distributed().await;
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let (mut single, mut cross) = (vec![], vec![]);
    for entry in fs::read_dir(&store).expect("the store") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        // `former.rs` moves what was there before there were such tables.
        if !path.is_file() || [CATALOGUE, "former.rs", "upgraded.rs", "schema.rs"].contains(&name.as_str()) {
            continue;
        }
        let source = fs::read_to_string(&path).expect("a source");
        for (table, column) in &distributed {
            let touches = |text: &&str| {
                let words: Vec<_> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
                words.windows(2).any(|pair| ["FROM", "JOIN", "INTO", "UPDATE"].contains(&pair[0]) && pair[1] == table)
            };
            for text in literals(&source).into_iter().filter(touches) {
                // An insertion says the shard of each row; anything else by a condition.
                let names = text.contains(&format!("INTO {table}")) || text.contains(&format!("{column} = "));
                assert!(
                    !text.contains("FOR UPDATE") && !text.contains("FOR SHARE"),
                    "{name} locks rows of shards: {text}"
                );
                if names { single.push(name.clone()) } else { cross.push(name.clone()) }
            }
        }
    }
    cross.sort();
    cross.dedup();
    assert_eq!(cross, CROSS_SHARD.map(|(name, _)| name), "statements that go to all shards");
    assert_eq!(single, ["cell.rs"], "a report goes to one");
}

//! The chain out of PostgreSQL, through its own driver.

use dm_core::Result;
use futures::TryStreamExt;
use sqlx::postgres::{PgPool, PgRow, Postgres};
use sqlx::{Decode, Row, Type, ValueRef};

use super::chain::{SEALED, SEALED_FROM};
use super::raw::{RawColumns, Read, read};
use super::{LEAF_COLUMNS, SealedEntry};
use crate::{error, sql};

/// Examines the links behind a position up to another one, up to the first row that cannot be read.
pub(super) async fn examine<T>(
    pool: &PgPool,
    after: Option<i64>,
    up_to: i64,
    mut examine: impl FnMut(&SealedEntry) -> T,
) -> Result<Read<T>> {
    let fragments = [SEALED, LEAF_COLUMNS, SEALED_FROM, " AND s.seq > $1 AND s.seq <= $2 ORDER BY s.seq"];
    let query = sql::of_postgres(&fragments).bind(after.unwrap_or(i64::MIN)).bind(up_to);
    let mut rows = query.fetch(pool);
    let (mut entries, mut last) = (Vec::new(), after);
    let mut entry = SealedEntry::default();
    while let Some(row) = rows.try_next().await.map_err(error::map)? {
        if let Err(why) = read(&mut Columns { row: &row, next: 0 }, &mut entry) {
            return Ok((entries, last, Some(why.to_string())));
        }
        last = Some(entry.seal.seq);
        entries.push(examine(&entry));
    }
    Ok((entries, last, None))
}

struct Columns<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> Columns<'r> {
    fn take<T: Decode<'r, Postgres> + Type<Postgres>>(&mut self) -> sqlx::Result<T> {
        self.next += 1;
        self.row.try_get(self.next - 1)
    }
}

impl RawColumns for Columns<'_> {
    type Error = sqlx::Error;

    fn number(&mut self) -> sqlx::Result<i64> {
        self.take()
    }

    fn text(&mut self, into: &mut String) -> sqlx::Result<()> {
        into.clear();
        into.push_str(self.take::<&str>()?);
        Ok(())
    }

    fn bytes(&mut self, into: &mut Vec<u8>) -> sqlx::Result<()> {
        into.clear();
        into.extend_from_slice(self.take::<&[u8]>()?);
        Ok(())
    }

    fn is_null(&mut self) -> sqlx::Result<bool> {
        let null = self.row.try_get_raw(self.next)?.is_null();
        self.next += usize::from(null);
        Ok(null)
    }
}

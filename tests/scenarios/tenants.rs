//! One tenant's backups, and one tenant's rows out of a whole backup, through the facade.

use std::sync::Arc;

use data_manager::{BackupOptions, ErrorKind, RestoreOptions, TargetName};
use dm_testkit::postgres::Server;
use dm_testkit::{FixedClock, require};

use crate::support::{Place, execute, number};

const DATA: &str = "
    CREATE TABLE customers (id int PRIMARY KEY, owner_email text, name text);
    CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers ON DELETE CASCADE, total int);
    CREATE TABLE elsewhere (id int PRIMARY KEY, body text);
    INSERT INTO customers SELECT g, (ARRAY['jo@example.org', 'al@example.org'])[1 + g % 2], 'c' || g FROM generate_series(1, 100) g;
    INSERT INTO orders SELECT g, 1 + g % 100, g FROM generate_series(1, 1000) g;
    INSERT INTO elsewhere SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 2000) g";

/// What is Jo's, and what is not.
const JOS: &str = "SELECT sum(total) FROM orders o JOIN customers c ON c.id = o.customer WHERE owner_email = 'jo@example.org'";
const OTHERS: &str = "SELECT sum(total) FROM orders o JOIN customers c ON c.id = o.customer WHERE owner_email <> 'jo@example.org'";

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_backups_of_its_own_and_comes_back_out_of_whole_ones() {
    let server = require!(Server::shared(15));
    let database = server.database("tenants").await.expect("a database");
    database.psql(DATA).await.expect("data");
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::folder(&folder.path().join("backups")).encrypted();
    place.bin_dir = Some(database.bin_dir().to_owned());
    let dm = place.manager(&database.url(), folder.path());
    let jo = Some("owner_email=jo@example.org".parse().expect("a tenant"));

    let whole = dm.backup().run(&dm.context(), &BackupOptions::default()).await.expect("a whole backup");
    let options = BackupOptions { tenant: jo.clone(), ..BackupOptions::default() };
    let partial = dm.backup().run(&dm.context(), &options).await.expect("a backup of a tenant");
    assert_eq!(partial.rows, 50 + 500, "{:?}", partial.warnings);
    assert!(partial.backup.target.as_str().starts_with("main.tenant-"), "{}", partial.backup.target);
    // Nothing that a listing shows tells who it is, and the whole one stays the latest of its target.
    let header = format!("{:?}", partial.backup);
    assert!(!header.contains("jo@") && !header.contains("owner_email"), "{header}");
    let main = TargetName::new("main").expect("a name");
    let latest = dm.backup().show(&dm.context(), Some(&main), "latest").await.expect("the latest");
    assert_eq!(latest.header.id, whole.backup.id);
    let again = dm.backup().run(&dm.context(), &options).await.expect("another backup of the tenant");
    assert_eq!(again.backup.target, partial.backup.target);

    let (jos, others) = (number(&dm, JOS).await, number(&dm, OTHERS).await);
    execute(&dm, "DELETE FROM customers WHERE owner_email = 'jo@example.org' AND id > 20").await;
    execute(&dm, "UPDATE orders SET total = total + 1 WHERE customer % 2 = 1").await;
    let others_now = number(&dm, OTHERS).await;
    assert_ne!(others_now, others);
    let wish = RestoreOptions { tenant: jo, in_place: true, rehearse: true, ..RestoreOptions::default() };
    let damaged = number(&dm, JOS).await;
    let plan = dm.plan_restore(&dm.context(), &wish).await.expect("a plan");
    assert_eq!(plan.backup.id, whole.backup.id);
    let rehearsed = dm.apply_restore(&dm.context(), plan).await.expect("a rehearsal");
    assert!(!rehearsed.released && rehearsed.equal, "{rehearsed:?}");
    assert!(rehearsed.bytes < 60_000, "only what is needed is fetched: {} bytes", rehearsed.bytes);
    assert!(
        rehearsed.checks.iter().any(|c| c.message.contains("public.customers: 40 rows inserted")),
        "{rehearsed:?}"
    );
    assert_eq!(number(&dm, JOS).await, damaged);

    let wish = RestoreOptions { rehearse: false, ..wish };
    let plan = dm.plan_restore(&dm.context(), &wish).await.expect("a plan");
    let restored = dm.apply_restore(&dm.context(), plan).await.expect("a restore");
    assert!(restored.released && restored.equal, "{restored:?}");
    assert_eq!((number(&dm, JOS).await, number(&dm, OTHERS).await), (jos, others_now));

    // A partial backup does not take the place of everything; and a plan keeps while somebody thinks about it, though the
    // name under which the old database would be kept has the time in it.
    let clock = FixedClock::at("2026-01-31T23:00:00Z");
    let ctx = |clock: &FixedClock| dm.context().with_clock(Arc::new(clock.clone()));
    let id = partial.backup.id.to_string();
    let wish = RestoreOptions { which: id, in_place: true, ..RestoreOptions::default() };
    let plan = dm.plan_restore(&ctx(&clock), &wish).await.expect("a plan");
    let later = FixedClock::at("2026-02-01T00:00:00Z");
    let error = dm.apply_restore(&ctx(&later), plan).await.expect_err("everybody else is lost");
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("one tenant only"), "{error:?}");
    dm.close().await;
}

//! Exporting as plain files.

use std::os::unix::fs::PermissionsExt;

use dm_backup::{ExportFormat, Selector};
use dm_core::{BackupKind, ErrorKind};

use crate::engine::PAGE;
use crate::{World, target};

#[tokio::test]
async fn the_files_are_the_data() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    {
        let mut state = world.engine.state();
        state.live.pages[3 * PAGE] = 77;
        // A hole in the middle and at the end.
        state.live.pages[10 * PAGE..14 * PAGE].fill(0);
        state.live.pages[38 * PAGE..].fill(0);
    }
    world.run(BackupKind::Incremental).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("export");
    let latest = Selector::latest(target());
    let report = world.service.export(&world.ctx, &latest, &folder, ExportFormat::Files, 2).await.unwrap();

    let live = world.engine.live();
    assert_eq!(std::fs::read(folder.join("shop.memory")).unwrap(), live.pages);
    for (table, rows) in &live.tables {
        let text = std::fs::read_to_string(folder.join(format!("data/{table}.copy"))).unwrap();
        assert!(text.lines().eq(rows.iter().map(String::as_str)), "{table}");
    }
    assert!(std::fs::read_to_string(folder.join("schema.dump")).unwrap().contains("create public.users"));
    let script = std::fs::read_to_string(folder.join("restore.sql")).unwrap();
    assert!(script.contains("\\copy public.orders FROM 'data/public.orders.copy'"), "{script}");
    assert!(std::fs::read_to_string(folder.join("README.txt")).unwrap().contains("restore.sql"));
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["schema"], "dm.export/1");
    assert_eq!(manifest["files"].as_array().unwrap().len(), report.files.len());
    for file in &report.files {
        let meta = std::fs::metadata(folder.join(&file.path)).unwrap();
        assert_eq!(meta.len(), file.bytes, "{}", file.path);
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    }

    let error = world.service.export(&world.ctx, &latest, &folder, ExportFormat::Files, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_failed_export_leaves_nothing() {
    let world = World::new().await;
    let made = world.run(BackupKind::Full).await.unwrap();
    for pack in world.keys(&format!("{}/packs", made.backup.id)).await {
        world.spoil(&pack).await;
    }
    let place = tempfile::tempdir().unwrap();
    let latest = Selector::latest(target());
    let error =
        world.service.export(&world.ctx, &latest, place.path(), ExportFormat::Files, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    let new = place.path().join("new");
    world.service.export(&world.ctx, &latest, &new, ExportFormat::Files, 2).await.unwrap_err();
    assert!(!new.exists());
}

#[tokio::test]
async fn a_base_tar_of_anything_but_a_cluster_is_refused_and_leaves_nothing() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("tars");
    let latest = Selector::latest(target());
    let export = world.service.export(&world.ctx, &latest, &folder, ExportFormat::BaseTar, 2);
    assert_eq!(export.await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(!folder.exists());
}

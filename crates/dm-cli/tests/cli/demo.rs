//! The demo: the main job on a database that is really broken.

use dm_cli::Exit;

use crate::harness::Place;

#[test]
fn the_demo_proves_its_restore_and_can_be_run_again() {
    let place = Place::empty();
    let first = place.dm(&["demo", "--json"]).expect(Exit::Done).json();
    assert_eq!(first["schema"], "dm.demo/1");
    let demo = &first["demo"];
    assert_eq!(demo["proven"], true);
    let rows: u64 =
        demo["tables"].as_array().unwrap().iter().map(|t| t["rows_after"].as_u64().unwrap()).sum();
    assert!(rows >= 200_000, "{rows}");
    assert!(!demo["damage"].as_array().unwrap().is_empty());
    let (full, incremental) =
        (demo["full_stored_bytes"].as_u64().unwrap(), demo["incremental_stored_bytes"].as_u64().unwrap());
    assert!(incremental * 10 <= full, "{incremental} of {full}");

    place.write("dm-demo/notes.txt", "a person's");
    let again = place.dm(&["demo"]).expect(Exit::Done);
    assert!(again.stdout.contains("Every row is back, exactly as it was."), "{}", again.stdout);
    assert!(place.path("dm-demo/notes.txt").exists());
}

#[test]
fn a_foreign_folder_is_refused() {
    let place = Place::empty();
    std::fs::create_dir(place.path("mine")).unwrap();
    place.write("mine/precious.txt", "mine");
    place.dm(&["demo", "--dir", "mine"]).expect(Exit::Failed);
    assert_eq!(std::fs::read_dir(place.path("mine")).unwrap().count(), 1);
}

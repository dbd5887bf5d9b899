//! Goal: a daemon runs on the last good snapshot, takes a newer one, and says why it takes none of the others.
//! Method: files written by hand one after the other, and looked at each time.

mod example;

use example::snapshot;
use std::path::PathBuf;
use tidegate_contract::Snapshot;
use tidegate_contract::envelope::{SigningKey, sign};
use tidegate_monitor::follow::{FollowError, SnapshotFile};

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_last_good_snapshot_runs_and_all_others_are_refused_with_the_reason() {
    let folder = std::env::temp_dir().join(format!("tidegate-follow-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let folder = Folder(folder);
    let path = folder.0.join("snapshot");
    let (key, stranger) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let put = |snapshot: &Snapshot| std::fs::write(&path, sign(snapshot, &key)).unwrap();
    put(&snapshot(7));
    let (mut file, running) = SnapshotFile::open(&path, vec![key.public()]).unwrap();
    assert_eq!(running.generation, 7);
    assert!(file.poll(true).unwrap().is_none(), "it is the one that runs");
    let mut other = snapshot(7);
    other.servers[0].weight = 3.0;
    put(&other);
    let error = file.poll(true).unwrap_err();
    assert!(matches!(error, FollowError::Another { running: 7, .. }), "{error}");
    assert!(error.to_string().ends_with("build it again with --generation 8"), "{error}");
    put(&snapshot(6));
    let error = file.poll(true).unwrap_err();
    assert!(matches!(error, FollowError::Older { found: 6, running: 7, .. }), "{error}");
    assert!(error.to_string().ends_with("build it again with --generation 8"), "{error}");
    std::fs::write(&path, sign(&snapshot(9), &stranger)).unwrap();
    assert!(matches!(file.poll(true).unwrap_err(), FollowError::Refused { .. }));
    std::fs::remove_file(&path).unwrap();
    assert!(file.poll(true).unwrap().is_none(), "it is being replaced");
    other.generation = 8;
    put(&other);
    assert_eq!(*file.poll(true).unwrap().unwrap(), other);
    assert!(file.poll(true).unwrap().is_none());
}

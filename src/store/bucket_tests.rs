use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, path::Path as Key};

use super::Store;
use super::index::Pack;
use super::pack::{self, PackKind};
use super::place::Place;
use super::snapshot::Snapshot;
use super::tests::{grow, restore, take, told};
use crate::model::sync::SyncOptions;
use crate::model::{Kind, Result};

/// A bucket in memory, with a snapshot of a tree in it.
struct Kept {
    objects: Arc<InMemory>,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Kept {
    fn new() -> Kept {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        Kept { objects: Arc::default(), runtime, dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> Store {
        let place = Place::of_objects(self.objects.clone(), self.runtime.handle().clone());
        Store::open(place, &self.at("cache"), None).unwrap()
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let get = async { self.objects.get(&Key::from(format!("host/{path}"))).await.unwrap().bytes().await };
        self.runtime.block_on(get).unwrap().to_vec()
    }

    fn put(&self, path: &str, bytes: Vec<u8>) {
        let put = async { self.objects.put(&Key::from(format!("host/{path}")), bytes.into()).await };
        self.runtime.block_on(put).unwrap();
    }

    fn comes_back(&self, store: &Store, snapshot: &Snapshot) -> Result<()> {
        let back = self.at("back");
        let _ = fs::remove_dir_all(&back);
        restore(store, snapshot, &back, &SyncOptions::default())?;
        assert_eq!(told(&self.at("source")), told(&back));
        Ok(())
    }
}

fn node_pack(store: &Store) -> Pack {
    let index = store.index();
    let mut packs = index.segments.iter().flat_map(|segment| segment.packs.iter());
    *packs.find(|pack| pack.kind == PackKind::Nodes).unwrap()
}

fn forget_all(cache: &Path) {
    let _ = fs::remove_dir_all(cache.join("packs"));
}

#[test]
fn a_pack_of_nodes_is_kept_only_if_it_is_as_long_as_it_was_and_what_its_name_says() {
    let kept = Kept::new();
    grow(&kept.at("source"), 5);
    let store = kept.open();
    let (_, snapshot) = take(&store, &kept.at("source"), None, true).unwrap();
    let path = pack::path_of(node_pack(&store).name);
    drop(store);
    let good = kept.get(&path);
    let flipped = good.iter().enumerate().map(|(at, byte)| if at == 20 { byte ^ 1 } else { *byte }).collect();
    let longer = [&good[..], &vec![7; 8 << 20]].concat();
    let other = [&[7; 100], &good[100..]].concat();
    for (what, bytes) in [("flipped", flipped), ("cut", good[..good.len() - 1].to_vec()), ("other", other)] {
        forget_all(&kept.at("cache"));
        kept.put(&path, bytes);
        let error = kept.comes_back(&kept.open(), &snapshot).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt, "{what}: {}", error.chain());
        assert!(!kept.at("cache").join(&path).exists(), "{what}: it is not kept here");
    }
    // What stands behind its end is no part of it, and is not fetched.
    forget_all(&kept.at("cache"));
    kept.put(&path, longer);
    kept.comes_back(&kept.open(), &snapshot).unwrap();
    assert_eq!(fs::read(kept.at("cache").join(&path)).unwrap(), good);
}

#[test]
fn what_is_kept_here_of_a_bucket_and_is_damaged_is_fetched_again() {
    let kept = Kept::new();
    grow(&kept.at("source"), 6);
    let store = kept.open();
    let (_, snapshot) = take(&store, &kept.at("source"), None, true).unwrap();
    kept.comes_back(&store, &snapshot).unwrap();
    let path = kept.at("cache").join(pack::path_of(node_pack(&store).name));
    drop(store);
    let good = fs::read(&path).unwrap();
    for damage in [vec![9; good.len()], good[..good.len() / 2].to_vec(), Vec::new()] {
        fs::write(&path, damage).unwrap();
        kept.comes_back(&kept.open(), &snapshot).unwrap();
        assert_eq!(fs::read(&path).unwrap(), good);
    }
}

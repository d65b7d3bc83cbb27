//! Where a store's files lie: a folder of this machine, or a bucket behind an URL. The only place that knows which.
//!
//! Files are written whole, under names that are never written a second time with other bytes.

use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore, ObjectStoreExt, path::Path as Key};
use tokio::runtime::Handle;

use crate::model;
use crate::sys::dir::private_file;

#[derive(Debug)]
pub enum Place {
    Folder(PathBuf),
    Bucket(Bucket),
}

#[derive(Debug)]
pub struct Bucket {
    objects: Arc<dyn ObjectStore>,
    prefix: String,
    url: String,
    /// Runs what the client of the bucket awaits, while a thread of ours blocks.
    runtime: Handle,
}

/// A file in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub len: u64,
}

impl Place {
    /// A bucket by its URL (`s3://BUCKET/PREFIX`); who we are there, and where it is, the usual `AWS_` variables say.
    pub fn bucket(url: &str, runtime: Handle) -> model::Result<Place> {
        let wrong = |why: &str| {
            model::Error::usage(format!("the store `{}` {why}", url.escape_debug()))
                .hint("write s3://BUCKET/PREFIX; credentials come from the AWS_ variables")
        };
        let rest = url.strip_prefix("s3://").ok_or_else(|| wrong("is no URL of a kind that is known"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("names no bucket"));
        }
        let objects = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .build()
            .map_err(|cause| wrong("cannot be used").because(cause))?;
        let prefix = prefix.trim_matches('/').to_owned();
        Ok(Place::Bucket(Bucket { objects: Arc::new(objects), prefix, url: url.to_owned(), runtime }))
    }

    /// A bucket that is none, for tests.
    #[cfg(test)]
    pub fn of_objects(objects: Arc<dyn ObjectStore>, runtime: Handle) -> Place {
        Place::Bucket(Bucket { objects, prefix: "host".to_owned(), url: "s3://test/host".to_owned(), runtime })
    }

    pub fn is_remote(&self) -> bool {
        matches!(self, Place::Bucket(_))
    }

    /// How people know it.
    pub fn label(&self) -> String {
        match self {
            Place::Folder(dir) => dir.display().to_string(),
            Place::Bucket(bucket) => bucket.url.clone(),
        }
    }

    /// Writes a whole file. When this returns it is there for good.
    pub fn put(&self, name: &str, bytes: &Bytes) -> Result<()> {
        match self {
            Place::Folder(dir) => put_durably(&dir.join(name), bytes),
            Place::Bucket(bucket) => bucket.wait(bucket.objects.put(&bucket.key(name), bytes.clone().into())).map(drop),
        }
    }

    /// A file, or so many bytes of it from `offset` on. Fewer are an error of kind `UnexpectedEof`.
    pub fn get(&self, name: &str, range: Option<(u64, u64)>) -> Result<Bytes> {
        match self {
            Place::Folder(dir) => {
                let file = File::open(dir.join(name))?;
                let (offset, len) = match range {
                    Some(range) => range,
                    None => (0, file.metadata()?.len()),
                };
                let mut bytes = vec![0; usize::try_from(len).map_err(|_| ErrorKind::OutOfMemory)?];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes.into())
            }
            Place::Bucket(bucket) => {
                let key = bucket.key(name);
                let Some((offset, len)) = range else {
                    return bucket.wait(async { bucket.objects.get(&key).await?.bytes().await });
                };
                let bytes = bucket.wait(bucket.objects.get_range(&key, offset..offset + len))?;
                if bytes.len() as u64 != len { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
            }
        }
    }

    /// All files below a folder, in the order of their names.
    pub fn list(&self, folder: &str) -> Result<Vec<Found>> {
        let mut found = match self {
            Place::Folder(dir) => {
                let mut found = Vec::new();
                list_folder(dir, folder, &mut found)?;
                found
            }
            Place::Bucket(bucket) => {
                let prefix = bucket.key(folder);
                let whole = bucket.key("").as_ref().len();
                let skip = if whole == 0 { 0 } else { whole + 1 };
                let listing = bucket.objects.list(Some(&prefix)).map_ok(|meta| Found {
                    name: meta.location.as_ref().get(skip..).unwrap_or_default().to_owned(),
                    len: meta.size,
                });
                bucket.wait(listing.try_collect::<Vec<_>>())?
            }
        };
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Removes a file; fine if it is not there.
    pub fn delete(&self, name: &str) -> Result<()> {
        let done = match self {
            Place::Folder(dir) => std::fs::remove_file(dir.join(name)),
            Place::Bucket(bucket) => bucket.wait(bucket.objects.delete(&bucket.key(name))),
        };
        match done {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes removals durable.
    pub fn settle(&self, folder: &str) -> Result<()> {
        match self {
            Place::Folder(dir) if dir.join(folder).is_dir() => File::open(dir.join(folder))?.sync_all(),
            _ => Ok(()),
        }
    }
}

impl Bucket {
    fn key(&self, name: &str) -> Key {
        Key::from(format!("{}/{name}", self.prefix))
    }

    fn wait<T>(&self, doing: impl Future<Output = object_store::Result<T>>) -> Result<T> {
        self.runtime.block_on(doing).map_err(|error| {
            let kind = match &error {
                object_store::Error::NotFound { .. } => ErrorKind::NotFound,
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                    ErrorKind::PermissionDenied
                }
                _ => ErrorKind::Other,
            };
            Error::new(kind, error)
        })
    }
}

/// Writes a file of our own beside its place, makes it durable, and puts it there with its name made durable, too.
pub fn put_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make_folder(folder)?;
    let draft = path.with_extension("draft");
    let mut file = private_file().create(true).truncate(true).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}

/// Makes a folder and those above it, each durable in the one above, ours alone.
pub fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above)?;
        match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => File::open(above)?.sync_all()?,
        }
    }
    Ok(())
}

fn list_folder(dir: &Path, folder: &str, found: &mut Vec<Found>) -> Result<()> {
    let entries = match std::fs::read_dir(dir.join(folder)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(|name| format!("{folder}/{name}")) else { continue };
        let meta = entry.metadata()?;
        if meta.is_dir() {
            list_folder(dir, &name, found)?;
        } else if !name.ends_with(".draft") {
            found.push(Found { name, len: meta.len() });
        }
    }
    Ok(())
}

//! The conversation between the two ends of a sync: what a target asks and what a source tells.
//!
//! The target drives. It opens the tree, compares, asks for the listings of directories that differ, then for the
//! content it lacks, and at the end for the source's root name. Both ends are plain blocking code on threads of their
//! own; they know each other only as a pair of channels, so it makes no difference whether the other one is in this
//! process or behind QUIC (`transport` joins two such pairs over a stream, `wire` has the encoding).
//!
//! Directories and entries are addressed by numbers that the source gives out: `dir` is the source's number of a
//! directory (the root is 0, and a listing tells the number of its first child directory; the others follow in the
//! order of their entries), `entry` is the position in that directory's listing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use super::view::Print;
use crate::model::name::Short;
use crate::model::{Error, Name, sync::LeftOut};

/// From the target to the source.
#[derive(Debug)]
pub enum Ask {
    /// First, once.
    Open(Open),
    /// The target has read the rules and starts its own scan; the source may start too. Answered by `Scanned`.
    Scan,
    /// The entries of directory `dir`; the target already has the list nodes in `have`. Answered by `Listing`.
    List { dir: u32, have: Vec<Short> },
    /// The whole content of these entries (all regular files, ascending). Each is answered by an item in `Files`, or by
    /// `Part`… and `FileEnd`, in any order between files.
    Fetch { dir: u32, entries: Vec<u32> },
    /// The chunk list of one big file, of which the target has the list nodes in `have`. Answered by `Chunks`… and `ChunksEnd`.
    Chunks { dir: u32, entry: u32, have: Vec<Short> },
    /// Ranges of one big file whose chunk list has been told. Answered by `Ranges`…, one range for each, in order.
    Need { dir: u32, entry: u32, ranges: Vec<NeedRange> },
    /// Nothing more will be asked. Answered by `Root`.
    Finish,
}

/// How the tree is to be looked at. Both ends apply the same view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Open {
    /// Only this part; empty is the whole tree.
    pub path: Vec<u8>,
    /// Patterns beside the source's own `.mcignore`.
    pub exclude: Vec<String>,
    /// Read every file, whatever the index says.
    pub checksum: bool,
    /// The target is empty: the source need not read anything before it is asked for its content.
    pub fresh: bool,
    /// Bytes of content a second; 0 is no limit.
    pub bytes_per_second: u64,
    /// Tell at the end which files have holes, and where. (A source that does not know of this tells none.)
    pub holes: bool,
}

/// A range of a file that the target lacks: one chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct NeedRange {
    pub offset: u64,
    pub len: u32,
    /// If not empty: for each 4 KiB block of the file that this range touches (cut at multiples of 4096 of the file), the
    /// first eight bytes of the BLAKE3 of what the target has at that place. The source then sends just the blocks that differ.
    pub blocks: Vec<u64>,
}

/// From the source to the target.
#[derive(Debug)]
pub enum Tell {
    /// Answers `Open`.
    Opened {
        /// The source's `.mcignore`, as it is; empty where there is none.
        rules: Vec<u8>,
        /// The source's files, where they are on this machine and in this process.
        local: Option<Arc<dyn LocalFiles>>,
    },
    /// From time to time during the scan.
    Scanning {
        files: u64,
        bytes_read: u64,
    },
    /// The scan is done. `top` is the canonical encoding of the root directory as an entry without a name; its content is
    /// known unless the open was `fresh` and something would have had to be read.
    Scanned {
        top: Bytes,
        entries: u64,
        bytes: u64,
    },
    /// An entry that the source cannot give. It is in no listing, and the target leaves its own alone.
    LeftOut(LeftOut),
    /// A part of a directory's list; `more` follow with the same numbers.
    Listing {
        dir: u32,
        first_child: u32,
        nodes: Vec<ListingNode>,
        more: bool,
    },
    /// Whole small files. `data` is their contents one behind the other.
    Files {
        items: Vec<FileItem>,
        data: Bytes,
    },
    /// Consecutive chunks of a big file; `data` is as long as they are together.
    Part {
        dir: u32,
        entry: u32,
        offset: u64,
        chunks: Vec<ChunkRef>,
        data: Bytes,
    },
    /// The file changed while it was read: forget its parts, it is told again from its start.
    Restart {
        dir: u32,
        entry: u32,
    },
    FileEnd(FileItem),
    Chunks {
        dir: u32,
        entry: u32,
        nodes: Vec<ChunkNode>,
    },
    ChunksEnd(FileItem),
    /// Answers one `Need`, wholly or in parts: for each of its ranges from number `first` on, what is sent of it.
    Ranges {
        dir: u32,
        entry: u32,
        first: u32,
        ranges: Vec<SentRange>,
        data: Bytes,
    },
    /// Answers `Finish` where the open asked for holes: all files that have any, in one or several tells, before the root.
    Holes(Vec<Holes>),
    /// Answers `Finish`: the root name of what has been told.
    Root {
        root: Name,
        entries: u64,
        bytes: u64,
        bytes_read: u64,
    },
    /// The source cannot go on.
    Failed(Error),
    /// Something to show the user once.
    Note(String),
}

/// A file, by its path, and where it has holes: in order, none of them empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Holes {
    pub path: Vec<u8>,
    pub holes: Vec<Range<u64>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ListingNode {
    /// One of those the target said it has.
    Have(Short),
    /// The canonical encoding of a list node.
    Raw(Bytes),
}

/// What became of one file that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct FileItem {
    pub dir: u32,
    pub entry: u32,
    /// Length of the content; of `Files.data` where the item stands in one.
    pub len: u64,
    /// The content's name ([`Name::UNKNOWN`] when it is gone or cannot be read).
    pub content: Name,
    /// The entry's canonical encoding as it was when its content was read, if the listing says otherwise.
    pub now: Option<Bytes>,
    /// The file has holes: blocks of zeros need not be written.
    pub sparse: bool,
    pub state: FileState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    Ok,
    /// It is not there any more.
    Gone,
    /// It never stood still: what is told is one reading of it.
    Unstable,
    /// It cannot be read; a `LeftOut` says why.
    Unreadable,
}

/// A slice of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    pub name: Name,
    pub len: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ChunkNode {
    Have(Short),
    Raw(Vec<ChunkRef>),
}

/// What is sent of one needed range.
#[derive(Clone, Debug, PartialEq)]
pub enum SentRange {
    /// All of it; its length in `data` is the range's.
    Whole,
    /// The blocks with these numbers (0 is the block that holds the range's first byte), each cut to the range.
    Blocks(Vec<u32>),
    /// Nothing: the file no longer has it.
    Lost,
}

/// Opens a source's files without a copy in between.
pub trait LocalFiles: Send + Sync + std::fmt::Debug {
    /// The regular file `entry` of `dir`, opened for reading, if it still is what the listing said; with the fingerprint by
    /// which to see that it stays so, and its chunks.
    fn open(&self, dir: u32, entry: u32) -> Option<(std::fs::File, Print, Vec<ChunkRef>)>;
}

/// The end that the target holds.
pub struct TargetEnd {
    pub ask: mpsc::UnboundedSender<Ask>,
    pub tell: mpsc::Receiver<Tell>,
}

/// The end that the source holds. When the target has gone, `ask` ends and `tell` refuses.
pub struct SourceEnd {
    pub ask: mpsc::UnboundedReceiver<Ask>,
    pub tell: mpsc::Sender<Tell>,
    /// Where the asks come from somebody who may send more of them than is good for us.
    pub window: Option<Arc<AskWindow>>,
}

impl SourceEnd {
    /// The next ask; `None` when the target has gone.
    pub fn next_ask(&mut self) -> Option<Ask> {
        let ask = self.ask.blocking_recv()?;
        if let Some(window) = &self.window {
            window.taken();
        }
        Some(ask)
    }
}

/// Bounds the bytes of asks that wait for a source. Only a target far away has one: it goes on reading tells while its asks
/// wait on their way, which one in the same process could not.
#[derive(Debug)]
pub struct AskWindow {
    room: Semaphore,
    waiting: Mutex<VecDeque<u32>>,
}

impl AskWindow {
    const KIBIBYTES: u32 = 64 << 10;

    #[expect(clippy::new_without_default, reason = "a window is opened, not assumed")]
    pub fn new() -> AskWindow {
        AskWindow { room: Semaphore::new(AskWindow::KIBIBYTES as usize), waiting: Mutex::default() }
    }

    /// Waits until an ask of so many bytes may wait.
    pub async fn enter(&self, bytes: usize) {
        let size = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).saturating_add(1).min(AskWindow::KIBIBYTES);
        // The semaphore is never closed.
        if let Ok(permits) = self.room.acquire_many(size).await {
            permits.forget();
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(size);
    }

    fn taken(&self) {
        let size = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        self.room.add_permits(size.unwrap_or(0) as usize);
    }
}

/// Tells in flight between the ends: a few batches, so that memory stays bounded and a cut loses little.
const IN_FLIGHT: usize = 8;

/// A fresh pair of ends. Asks are small and few for what they bring, so only tells push back.
pub fn pair() -> (TargetEnd, SourceEnd) {
    let (ask_in, ask_out) = mpsc::unbounded_channel();
    let (tell_in, tell_out) = mpsc::channel(IN_FLIGHT);
    (TargetEnd { ask: ask_in, tell: tell_out }, SourceEnd { ask: ask_out, tell: tell_in, window: None })
}

//! A process that writes a file through memory.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Maps the file, says so, writes each line to its start, and ends with its input.
const PROGRAM: &str = r#"
import mmap, sys
file = open(sys.argv[1], "r+b")
memory = mmap.mmap(file.fileno(), 0)
file.close()
print("mapped", flush=True)
for line in sys.stdin:
    memory[0:len(line) - 1] = line[:-1].encode()
    print("written", flush=True)
memory.close()
"#;

pub struct Mapper {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Mapper {
    pub fn of(file: &Path) -> Mapper {
        Mapper::start(&mut Command::new("python3"), file)
    }

    pub fn by_user(user: u32, file: &Path) -> Mapper {
        Mapper::start(Command::new("python3").uid(user).gid(user), file)
    }

    fn start(command: &mut Command, file: &Path) -> Mapper {
        let started = command.args(["-c", PROGRAM]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.expect("python3 runs");
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        let mut mapper = Mapper { child, answers };
        mapper.heard("mapped");
        mapper
    }

    fn heard(&mut self, word: &str) {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("its answer");
        assert_eq!(line.trim_end(), word);
    }

    /// Writes to the start of the file, by no call.
    pub fn write(&mut self, text: &str) {
        writeln!(self.child.stdin.as_mut().expect("its input"), "{text}").expect("it listens");
        self.heard("written");
    }

    /// Unmaps, ends.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

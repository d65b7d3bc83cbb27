//! Somebody at a terminal: runs mcloud on one, waits for what it shows, types, changes its size.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::host::Client;

/// Steps, one a word: `until:TEXT`, `send:TEXT`, `ask:LINE:TEXT` (types the line until the text is there), `size:ROWSxCOLUMNS`,
/// `do:WORDS` (mcloud with these words, beside it), `end` (reads on to its end). What was shown goes to standard output.
const PROGRAM: &str = r#"
import fcntl, os, pty, struct, subprocess, sys, termios, time, select
words, steps = sys.argv[1].split("\1"), sys.argv[2].split("\1")
pid, fd = pty.fork()
if pid == 0:
    os.execvp(words[0], words)
seen = b""
def read():
    global seen
    if not select.select([fd], [], [], 0.2)[0]: return True
    try: piece = os.read(fd, 4096)
    except OSError: return False
    sys.stdout.buffer.write(piece); seen += piece
    return bool(piece)
def until(text, again=None):
    global seen
    end, next = time.time() + 60, time.time() + 1
    while text.encode() not in seen:
        if time.time() > end: sys.exit("never saw %r in %r" % (text, seen))
        if again and time.time() > next: os.write(fd, again); next += 1
        if not read(): sys.exit("ended with %r" % seen)
    seen = seen.split(text.encode(), 1)[1]
for step in steps:
    what, _, rest = step.partition(":")
    if what == "until": until(rest)
    elif what == "send": os.write(fd, rest.encode().decode("unicode_escape").encode())
    elif what == "ask":
        line, _, text = rest.partition(":")
        os.write(fd, line.encode() + b"\n"); until(text, line.encode() + b"\n")
    elif what == "size":
        rows, cols = map(int, rest.split("x"))
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
    elif what == "do": subprocess.run([words[0]] + rest.split(), check=True, stdout=subprocess.DEVNULL)
    elif what == "end":
        while read(): pass
_, status = os.waitpid(pid, 0)
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 128 - code)
"#;

/// Runs mcloud with these words on a terminal, and does the steps there. Its exit status is that of mcloud.
pub fn sit(client: &Client, dir: &Path, words: &[&str], steps: &[&str]) -> Output {
    let program = dir.join("seat.py");
    fs::write(&program, PROGRAM).expect("a program");
    let mcloud = client.command(words);
    let words: Vec<_> = [mcloud.get_program()].into_iter().chain(mcloud.get_args()).collect();
    let words: Vec<_> = words.iter().map(|word| word.to_str().expect("a plain word")).collect();
    let mut python = Command::new("python3");
    python.arg(&program).arg(words.join("\u{1}")).arg(steps.join("\u{1}")).current_dir(&client.home);
    for (name, value) in mcloud.get_envs() {
        python.env(name, value.unwrap_or_default());
    }
    python.output().expect("python3")
}

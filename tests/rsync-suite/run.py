#!/usr/bin/env python3
"""rsync's own test suite against `mcloud sync`: fetched with apt at run time, none of it lies in this repository.

    python3 tests/rsync-suite/run.py --binary target/release/mcloud
    python3 tests/rsync-suite/run.py --binary target/debug/mcloud --tests 'delete*' --log

`shim.py` takes the place of rsync. A test counts where at least one of its calls was mapped to mcloud; the others only exercise rsync.
A test that fails is run with the real rsync as well: where that fails too, the machine is the reason. Every other failure has to stand
in `explained.txt` with its reason; the exit status is 1 where one does not.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
LIBRARIES = ("libpopt-dev", "zlib1g-dev", "libacl1-dev", "libattr1-dev")
HELPERS = (
    "tls", "trimslash", "t_unsafe", "t_chmod_secure", "t_rename_secure", "t_symlink_secure", "t_secure_relpath", "wildtest", "getgroups",
    "getfsdev", "testrun",
)
# Suites that may have the version that is installed here, after those that apt knows already.
SUITES = ("trixie", "trixie-security", "forky", "sid")


def run(*words, **more):
    return subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True, errors="replace", **more)


def must(*words, **more):
    out = run(*words, **more)
    if out.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{out.stdout[-2000:]}{out.stderr[-2000:]}")
    return out.stdout


# ---------------------------------------------------------------- the sources


def installed():
    return must("rsync", "--version").split()[2]


def places():
    """(repository, suite) of what apt reads here, then other suites of the same repositories."""
    rows = must("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(SIGNED_BY)", "Created-By: Packages")
    known = [row.split(" ", 2) for row in rows.splitlines()]
    known = [(uri, suite, key) for uri, suite, key in known if "debian" in uri.lower() or "ubuntu" in uri.lower()]
    seen = []
    for uri, suite, key in known + [(uri, suite, key) for suite in SUITES for uri, _, key in known]:
        if (uri, suite, key) not in seen:
            seen.append((uri, suite, key))
    return seen


def fetch(work, version):
    """The upstream sources of the version, unpacked."""
    at = work / f"rsync-{version}"
    if (at / "runtests.py").exists():
        return at
    for uri, suite, key in places():
        apt = work / "apt"
        for folder in ("lists/partial", "cache/archives/partial"):
            (apt / folder).mkdir(parents=True, exist_ok=True)
        signed = f"[signed-by={key.strip()}] " if key.strip() else ""
        (apt / "src.list").write_text(f"deb-src {signed}{uri} {suite} main\n")
        words = ["apt-get", "-o", f"Dir::Etc::sourcelist={apt}/src.list", "-o", "Dir::Etc::sourceparts=/dev/null", "-o", f"Dir::State::lists={apt}/lists"]
        words += ["-o", f"Dir::Cache={apt}/cache", "-o", "APT::Sandbox::User=root"]
        run(*words, "-qq", "update")
        if f"rsync_{version}" not in run(*words, "source", "--print-uris", "rsync").stdout:
            continue
        run(*words, "source", "--tar-only", "rsync", cwd=work)
        tarball = next(iter(work.glob(f"rsync_{version}*.orig.tar.*z*")), None)
        if tarball:
            at.mkdir(exist_ok=True)
            must("tar", "-xf", tarball, "-C", at, "--strip-components=1")
            return at
    sys.exit(f"apt offers no sources of rsync {version}, the version installed here")


def build(source):
    """The suite's helper programs; rsync itself is the machine's."""
    missing = [name for name in LIBRARIES if run("dpkg", "-s", name).returncode]
    if missing:
        must("apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    if all((source / helper).exists() for helper in HELPERS):
        return
    # The distribution takes the bundled libraries out and leaves configure looking for their folders.
    for folder in ("zlib", "popt"):
        (source / folder).mkdir(exist_ok=True)
        (source / folder / "dummy.in").touch()
    off = [f"--disable-{what}" for what in ("md2man", "openssl", "xxhash", "zstd", "lz4")]
    must("./configure", *off, "--with-included-zlib=no", "--with-included-popt=no", cwd=source)
    must("make", *HELPERS, cwd=source)


# ---------------------------------------------------------------- the run


def suite(source, binary, settings, work, names=()):
    """{test: PASS, FAIL, SKIP …} with this rsync."""
    with tempfile.TemporaryDirectory(prefix="rsync-suite-", dir=work) as scratch:
        words = [sys.executable, "runtests.py", "-j", settings.jobs, "--timeout", "120", "--race-timeout", settings.race]
        words += ["--rsync-bin", binary, "--always-log", *names]
        environment = os.environ | {"scratchbase": scratch, "SUITE_RSYNC": real(), "SUITE_MCLOUD": settings.binary, "SUITE_HOME": scratch + "/home"}
        environment |= {"SUITE_LOG": str(work / "calls.jsonl")}
        out = run(*words, cwd=source, env=environment)
    (work / f"{Path(binary).name}.log").write_text(out.stdout + out.stderr, errors="backslashreplace")
    found = re.findall(r"^(PASS|FAIL|SKIP|XFAIL|ERROR)\S*\s+([\w.-]+)", out.stdout, re.MULTILINE)
    return {name: result for result, name in found}


def real():
    return must("sh", "-c", "command -v rsync").strip()


def explained():
    rows = [line.split(None, 1) for line in (HERE / "explained.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {name: reason.strip() for name, reason in rows}


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--binary", default=str(REPO / "target/release/mcloud"))
    words.add_argument("--work", default=str(REPO / "target/rsync-suite"))
    words.add_argument("--tests", action="append", default=[], help="only these (names or globs)")
    words.add_argument("--jobs", default=str(os.cpu_count() or 1))
    words.add_argument("--race", default="3", help="seconds that a race test may spend")
    words.add_argument("--log", action="store_true", help="print what the failed tests said")
    settings = words.parse_args()
    settings.binary = os.path.abspath(settings.binary)
    work = Path(settings.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    version = installed()
    source = fetch(work, version)
    build(source)

    calls = work / "calls.jsonl"
    calls.write_text("")
    shim = HERE / "shim.py"
    results = suite(source, shim, settings, work, settings.tests)
    noted = [json.loads(line) for line in calls.read_text().splitlines()]
    mapped = {}
    for note in noted:
        if note["mapped"]:
            mapped[note["test"]] = mapped.get(note["test"], 0) + 1
    ours = {name: result for name, result in results.items() if mapped.get(name)}
    failed = sorted(name for name, result in ours.items() if result in ("FAIL", "ERROR"))
    base = suite(source, real(), settings, work, failed) if failed else {}
    return tell(version, results, ours, mapped, failed, base, settings, work)


def tell(version, results, ours, mapped, failed, base, settings, work):
    reasons, open_ones = explained(), []
    print(f"rsync {version}: {len(results)} tests, {len(ours)} of them make {sum(mapped.values())} calls that map to `mcloud sync`")
    print(f"  {sum(result == 'PASS' for result in ours.values())} pass, {len(failed)} fail, {sum(r == 'SKIP' for r in ours.values())} skip")
    for name in failed:
        if base.get(name) != "PASS":
            reason = f"fails with rsync itself here ({base.get(name)})"
        elif name in reasons:
            reason = reasons[name]
        else:
            reason, _ = "NOT EXPLAINED", open_ones.append(name)
        print(f"  FAIL {name}: {reason}")
    stale = sorted(name for name in reasons if ours.get(name) == "PASS")
    if stale:
        print(f"  passes by now, though explained: {', '.join(stale)}")
    print(f"  what the tests said: {work}/shim.py.log; each call: {work}/calls.jsonl")
    if settings.log:
        print((work / "shim.py.log").read_text())
    sys.exit(1 if open_ones or not ours else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Stands where rsync's own tests expect rsync. A call that is a recursive copy with all metadata from one local folder to another goes to
`mcloud sync`; every other call goes to the real rsync. What became of each is noted in SUITE_LOG.

Mapped are: `-a`, or -r with all that -a stands for; with any of -c, -x, -z, -H, -A, -X, -S, -U, -W, -v, -q, -i, -h, --delete and its
moments, --exclude, --bwlimit, --stats. Without --delete the call becomes `--no-remove`. Options that change what a copy is (-u,
--existing, --link-dest, --backup, filters, -n …) or that are about rsync's own files and talk (--partial, --temp-dir, --delay-updates,
--inplace, --fuzzy, --debug …) are left to rsync.
"""

import json
import os
import subprocess
import sys

SHORT_SAME = set("rlptgoDacHAXSWvqihzU")  # kept by mcloud anyway, or about the work and not the result
LONG_SAME = {
    "--archive", "--recursive", "--links", "--perms", "--times", "--group", "--owner", "--devices", "--specials", "--hard-links", "--acls",
    "--xattrs", "--sparse", "--verbose", "--quiet", "--itemize-changes", "--human-readable", "--whole-file", "--no-whole-file", "--stats",
    "--compress", "--numeric-ids", "--no-inc-recursive",
    "--inc-recursive", "--no-i-r", "--i-r", "--checksum", "--fsync", "--open-noatime", "--one-file-system",
}
DELETE = {"--delete", "--del", "--delete-before", "--delete-during", "--delete-after", "--delete-delay"}
WITH_VALUE = {"--timeout", "--block-size"}
ARCHIVE = set("rlptgoD")


def mapped(words):
    """The words for mcloud, or None where the call means something else."""
    short, more, places, delete, checksum = set(), [], [], False, False
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        name, equals, value = word.partition("=")
        if word == "--":
            return None
        if word.startswith("--"):
            if name in ("--exclude",):
                if not equals:
                    value, at = (words[at] if at < len(words) else ""), at + 1
                if value.startswith(("+ ", "- ", "!")) or "***" in value:
                    return None
                more += ["--exclude", pattern(value)]
            elif name == "--bwlimit" and value.isdigit():
                more += ["--bwlimit", f"{value}KiB"]
            elif word in DELETE:
                delete = True
            elif name in WITH_VALUE:
                at += 0 if equals else 1
            elif word in LONG_SAME:
                short |= ARCHIVE if word == "--archive" else {"r"} if word == "--recursive" else set()
                short |= {"--links": {"l"}, "--perms": {"p"}, "--times": {"t"}, "--group": {"g"}, "--owner": {"o"}}.get(word, set())
                short |= {"D"} if word == "--devices" else set()
                checksum = checksum or word == "--checksum"
            else:
                return None
        elif word.startswith("-") and len(word) > 1:
            if not set(word[1:]) <= SHORT_SAME:
                return None
            short |= set(word[1:])
            checksum = checksum or "c" in word
        else:
            places.append(word)
    if "a" in short:
        short |= ARCHIVE
    if len(places) != 2 or not short >= ARCHIVE or any(is_far(place) for place in places):
        return None
    return paths(*places, more, delete, checksum)


def pattern(text):
    """A slash in the middle does not anchor for rsync, as it does in gitignore syntax."""
    return text if text.startswith("/") or "/" not in text.rstrip("/") else "**/" + text


def is_far(place):
    return ":" in place.split("/")[0] or place.startswith("rsync:")


def paths(source, target, more, delete, checksum):
    if not os.path.isdir(source) or "@" in source or "@" in target:
        return None
    if not source.endswith("/") and os.path.basename(source) not in (".", ".."):
        # The folder itself goes into the target.
        if not os.path.isdir(target) or os.path.islink(source):
            return None
        target = os.path.join(target, os.path.basename(source))
    if os.path.lexists(target.rstrip("/")) and not os.path.isdir(target):
        return None
    words = ["sync", source, target, "--yes", "--force", *more]
    words += [] if delete else ["--no-remove"]
    return words + (["--checksum"] if checksum else [])


def main():
    words = sys.argv[1:]
    ours = mapped(words)
    note = {"test": os.path.basename(os.environ.get("scratchdir", "")), "call": words, "mapped": ours}
    if not ours:
        log(note)
        os.execv(os.environ["SUITE_RSYNC"], [os.environ["SUITE_RSYNC"], *words])
    home = os.environ["SUITE_HOME"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MCLOUD")}
    environment |= {"MCLOUD_HOME": home + "/none", "MCLOUD_CONFIG_DIR": home + "/config", "XDG_CACHE_HOME": home + "/cache"}
    code = subprocess.run([os.environ["SUITE_MCLOUD"], *ours], env=environment, check=False).returncode
    log(note | {"code": code})
    # A partial copy is rsync's 23; what could not begin is its 1.
    sys.exit({0: 0, 5: 23, 2: 1}.get(code, 23))


def log(note):
    with open(os.environ["SUITE_LOG"], "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(note) + "\n")


if __name__ == "__main__":
    main()

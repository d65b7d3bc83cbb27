"""Syncs of a part: what must be equal after them, and what must be as it was."""

import os
import re

import oracle
from world import Wrong

PLAIN = re.compile(rb"[A-Za-z0-9._-]+")


def round_of(seed, rng, source, target):
    if source is target:
        return
    seed.pair = (source.folder, target.folder)
    rng.choice((keeping, excluding, below))(seed, rng, source, target)
    # Whatever a part left, the whole makes equal.
    seed.whole(seed.words(source, target), source, target)


def run(seed, source, target, more, may_leave=False):
    """The outcome and the target before and after. What is protected may be in the way of something, which is then listed."""
    before = seed.portrait(target)
    outcome = seed.world.client.run(*seed.words(source, target, *more, "--yes", "--force"))
    target.state = None
    listed = outcome.code == 5 and outcome.left_out()
    if outcome.code != 0 and not (listed and (may_leave or target.coarse)):
        raise Wrong("exit", str(outcome))
    return outcome, before, seed.portrait(target)


def check(outcome, found, target):
    if target.coarse:
        found = [one for one in found if one[0] != "mtime"]
    if found:
        raise Wrong("part: " + "+".join(sorted({one[0] for one in found})), f"{found[:8]}\n{outcome}")


def above(path):
    while path:
        path = os.path.dirname(path)
        yield path


def keeping(seed, rng, source, target):
    """--no-remove: all of the source is there, and what only the target has is as it was."""
    outcome, before, after = run(seed, source, target, ["--no-remove"])
    want = seed.portrait(source)
    # A name that both keep may be linked to one that only the target has.
    found = oracle.differences(want, after, without=("links",), inside=lambda path: path in want, before=before, root=target.folder)
    for path in before:
        kept = all(want.get(folder, before[folder])["kind"] == "folder" for folder in above(path))
        if path not in want and kept:
            gone = path not in after
            if gone or before[path].get("contents") != after[path].get("contents"):
                found.append(("removed" if gone else "changed", path, f"{before[path]} became {after.get(path)}"))
    check(outcome, found, target)


def excluding(seed, rng, source, target):
    """--exclude: neither copied nor removed; the rest is equal."""
    want, before = seed.portrait(source), seed.portrait(target)
    names = sorted({os.path.basename(path) for path in want.keys() | before.keys() if PLAIN.fullmatch(os.path.basename(path))})
    if not names:
        return
    chosen = rng.choice(names)
    pattern, hit = (os.fsdecode(chosen), lambda name: name == chosen)
    if b"." in chosen[1:] and rng.random() < 0.5:
        ending = chosen[chosen.rindex(b".") :]
        pattern, hit = "*" + os.fsdecode(ending), lambda name: name.endswith(ending)
    out = lambda path: any(hit(part) for part in path.split(b"/"))  # noqa: E731
    outcome, before, after = run(seed, source, target, [f"--exclude={pattern}"], may_leave=True)
    # Folders above what is protected stay, whatever the source has there, and links may lead into what is left out.
    holders = {folder for path in before if out(path) for folder in above(path)}
    holders |= {path for path in after if any((above_it in holders) and above_it not in want for above_it in above(path))}
    found = oracle.differences(want, after, without=("links",), inside=lambda path: not out(path) and path not in holders, before=before, root=target.folder)
    found += [one for one in untouched(before, after, out, ("links", "mtime")) if one[0] != "too many"]
    check(outcome, found, target)


def below(seed, rng, source, target):
    """--path: this part is equal, and nothing else is touched."""
    want, before = seed.portrait(source), seed.portrait(target)
    both = [p for p in want if p and want[p]["kind"] == "folder" and before.get(p, {}).get("kind") == "folder" and is_text(p)]
    if not both:
        return
    part = rng.choice(sorted(both))
    inside = lambda path: path.startswith(part + b"/")  # noqa: E731
    outcome, before, after = run(seed, source, target, [f"--path={os.fsdecode(part)}"])
    found = oracle.differences(want, after, without=("links",), inside=inside, before=before, root=target.folder)
    edge = {part, *above(part)}
    found += untouched(before, after, lambda path: not inside(path) and path not in edge, ("links",))
    check(outcome, found, target)


def untouched(before, after, inside, without):
    """What changed where nothing should. A name that is linked to one that is copied shares its mode, owner and times: only contents and
    being there are its own."""
    found = oracle.differences(before, after, without=without, inside=inside)
    shared = ("mode", "owner", "mtime", "attributes")
    return [one for one in found if not (one[0] in shared and before[one[1]]["links"])]


def is_text(path):
    try:
        return path.decode().isprintable()
    except UnicodeDecodeError:
        return False

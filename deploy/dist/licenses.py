"""The licences of the crates that are compiled into the binary, as their packages have them: `licenses.py TARGET`, to standard
output. Their terms ask for it: MIT, BSD and Apache-2.0 let a binary be passed on if their text goes with it."""

import json
import pathlib
import subprocess
import sys

STARTS = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")


def compiled(metadata):
    """The crates that end up in the program: neither those for tests nor those for build scripts."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, waiting = set(), [metadata["resolve"]["root"]]
    while waiting:
        crate = waiting.pop()
        if crate in found:
            continue
        found.add(crate)
        for dependency in nodes[crate]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return found


def main(target):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    kept = compiled(metadata)
    texts = {}
    for package in sorted(metadata["packages"], key=lambda package: (package["name"], package["version"])):
        if package["id"] not in kept or package["source"] is None:
            continue
        crate = f"{package['name']} {package['version']} ({package['license'] or 'see its text'})"
        folder = pathlib.Path(package["manifest_path"]).parent
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.name.upper().startswith(STARTS))
        # Those that name a licence and bring no text stand at the end.
        read = [path.read_text(encoding="utf-8", errors="replace").strip() for path in files] or [""]
        for text in read:
            texts.setdefault(text, []).append(crate)
    without = texts.pop("", [])
    rule = "=" * 100
    for text, crates in texts.items():
        print("\n".join([rule, *crates, rule, text, ""]))
    if without:
        print("\n".join([rule, *without, rule, "Under the licence that is named, whose text their packages leave out.", ""]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    main(sys.argv[1])

#!/usr/bin/env python3
"""Prints what the program nanoserve is made of: each crate with its version, its licence and its licences' texts.

    scripts/licences.py [--target TRIPLE]... [--no-default-features]

Crates that are linked in, for any of the targets; what only builds, tests or expands macros is not in the program. Texts are
those that come with the crates, each once. It ends with 1 where a crate says nothing of its licence.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = "x86_64-unknown-linux-musl"
NAMES = ("license", "licence", "copying", "copyright", "notice", "unlicense")


def cargo(*words):
    return subprocess.run(["cargo", *words, "--locked"], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def linked(arguments):
    """The packages of the program, by name and version."""
    features = ["--no-default-features"] if arguments.no_default_features else []
    targets = [word for target in arguments.target or [TARGET] for word in ("--target", target)]
    tree = cargo("tree", "-p", "nanoserve-cli", "-e", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}",
                 *targets, *features)
    named = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    found = [package for package in packages if (package["name"], "v" + package["version"]) in named]
    assert len(found) == len(named), "cargo names a crate in two ways"
    return sorted(found, key=lambda package: (package["name"], package["version"]))


def texts(package):
    """The files of licences that lie in a package, those of C sources in it included."""
    folder = Path(package["manifest_path"]).parent
    if package["source"] is None:
        folder = ROOT
        found = folder.glob("LICENSE-*")
    else:
        found = (path for path in folder.rglob("*") if path.name.lower().startswith(NAMES) and path.suffix != ".rs")
    for path in sorted(path for path in found if path.is_file()):
        yield path.read_text(errors="replace").strip().replace("\r\n", "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--target", action="append", help=f"{TARGET} where none is given")
    parser.add_argument("--no-default-features", action="store_true")
    packages = linked(parser.parse_args())
    by_text, missing = {}, []
    print("What the program nanoserve is made of, and its licences\n")
    for package in packages:
        name = f"{package['name']} {package['version']}"
        licence = package["license"]
        if not licence:
            missing.append(name)
        print(f"{name:<40} {licence or 'UNKNOWN'}")
        for text in texts(package):
            by_text.setdefault(text, []).append(name)
    print("\nA static program also holds Rust's standard library (MIT OR Apache-2.0) and a C library: musl (MIT), where it was")
    print("built for musl.")
    for text, names in by_text.items():
        print(f"\n{'=' * 100}\n{', '.join(dict.fromkeys(names))}\n\n{text}")
    if missing:
        sys.exit(f"error: no licence is named by {', '.join(missing)}")


if __name__ == "__main__":
    main()

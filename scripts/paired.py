#!/usr/bin/env python3
"""Run two benchmark commands in turn and compare them pair by pair.

    scripts/paired.py --pairs 5 'PEER COMMAND' 'target/release/nanoserve-bench MODEL.nsv -t 2 -r 1 --json'

Each command prints JSON; the numbers that --keys names are compared, from its last line. A machine's speed drifts by tens
of percent within minutes, so only runs side by side are compared. The second run of a pair is often slower or faster by
some percent whatever it is, so the order turns: peer, ours, ours, peer. Prints the median of each, and the median,
smallest and largest of the ratios ours / peer.
"""
import argparse
import json
import shlex
import statistics
import subprocess


def run(command):
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer")
    parser.add_argument("ours")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--keys", default="prompt_tok_s,generate_tok_s")
    args = parser.parse_args()
    rounds = []
    for pair in range(args.pairs):
        commands = [args.peer, args.ours]
        if pair % 2 == 0:
            rounds.append([run(command) for command in commands])
        else:
            rounds.append([run(command) for command in reversed(commands)][::-1])
    for key in args.keys.split(","):
        peer, ours = [r[0][key] for r in rounds], [r[1][key] for r in rounds]
        ratios = [b / a for a, b in zip(peer, ours) if a > 0]
        if ratios:
            print(f"{key}: peer {statistics.median(peer):.2f}  ours {statistics.median(ours):.2f}  "
                  f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})")
    hashes = {r[1].get("logits_hash") for r in rounds}
    print("logits", *sorted(h[:16] for h in hashes if h))


main()

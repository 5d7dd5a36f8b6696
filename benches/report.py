"""Markdown tables of what run.sh measured: report.py RESULTS ROUNDS SECONDS [LEFT-OUT...]"""

import json
import platform
import statistics
import sys
from datetime import date

LIMIT = "limit"
# The case, the figure, and the heading of those that are compared by their absolute figures.
ABSOLUTE = [
    ("idle", "bytes a connection", "idle: KiB a connection", 1024),
    ("after-1m", "bytes a connection right after", "after-1m: KiB a connection, right after", 1024),
    ("after-1m", "bytes a connection later", "later", 1024),
    ("slow-10", "us a second", "slow-10: CPU, us a second", 1),
    ("slow-10", "context switches a second", "context switches a second", 1),
    ("silent", "context switches a second", "silent: context switches a second", 1),
    ("silent", "threads", "threads", 1),
]

path, rounds, seconds, *left_out = sys.argv[1:]
runs = [json.loads(line) for line in open(path)]
servers = list(dict.fromkeys(run["server"] for run in runs))
cases = list(dict.fromkeys(run["case"] for run in runs))
by_key = {(run["case"], run["server"], run["round"]): run for run in runs}


def number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values):
    """The median, and the least and the most."""
    if not values:
        return ""
    low, high = number(min(values)), number(max(values))
    middle = number(statistics.median(values))
    return middle if low == high else f"{middle} ({low} to {high})"


def first_figure(run):
    """The name and the value of what a case compares by."""
    return next((name, value) for name, value in run.items() if name.startswith("ns a "))


def ratios(case, server):
    """To the limit in the same round."""
    pairs = [(by_key.get((case, server, str(n + 1))), by_key.get((case, LIMIT, str(n + 1)))) for n in range(int(rounds))]
    return [first_figure(run)[1] / first_figure(limit)[1] for run, limit in pairs if run and limit]


def microseconds(case, server):
    return [first_figure(run)[1] / 1000 for run in runs if run["case"] == case and run["server"] == server]


def figures(case, server, name):
    return [run[name] for run in runs if run["case"] == case and run["server"] == server]


def table(heads, rows):
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def cpu_model():
    for line in open("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


congestion = open("/proc/sys/net/ipv4/tcp_congestion_control").read().strip()
print(
    f"{date.today()}, {cpu_model()}, Linux {platform.release()}, congestion control {congestion}, "
    f"rounds: {rounds}, {seconds} s each.\n"
)

loaded = [case for case in cases if any(name.startswith("ns a ") for run in runs if run["case"] == case for name in run)]
if loaded:
    if LIMIT in servers:
        print("Server CPU time, as the ratio to the limit in the same round: median (least to most).\n")
        rows = []
        for server in servers:
            cells = [spread(ratios(case, server)) for case in loaded]
            if server == LIMIT:
                cells = [f"1 = {spread(microseconds(case, LIMIT))} us" for case in loaded]
            rows.append([server, *cells])
    else:
        print("Server CPU time in us: median (least to most).\n")
        rows = [[server, *(spread(microseconds(case, server)) for case in loaded)] for server in servers]
    table(["", *loaded], rows)
    busy = sorted({(run["case"], run["server"]) for run in runs if run.get("load is the bottleneck")})
    if busy:
        print("The load had no time left, and the server some, in " + ", ".join(f"{c} of {s}" for c, s in busy) + ".\n")

absolute = [column for column in ABSOLUTE if column[0] in cases]
if absolute:
    print("Median (least to most).\n")
    table(
        ["", *(heading for _, _, heading, _ in absolute)],
        [
            [server, *(spread([value / unit for value in figures(case, server, name)]) for case, name, _, unit in absolute)]
            for server in servers
        ],
    )

for why in left_out:
    print(f"Left out: {why}.")

"""Judges a report of Autobahn's test suite: every case that is listed, no other, each with the result that it must have.

Stricter than the suite: nothing may be NON-STRICT, and each case has one close code that the server must end with.
"""

import json
import sys

# What the suite does not judge: how long a close may take after 256 KiB (7.1.6), and close codes above 4999.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}


def main(report, cases):
    with open(report, encoding="utf-8") as file:
        agents = json.load(file)
    with open(cases, encoding="utf-8") as file:
        expected = dict(line.split() for line in file if not line.startswith("#"))
    if len(agents) != 1:
        sys.exit(f"one agent was tested, the report has {len(agents)}")
    (results,) = agents.values()

    wrong = [f"{case} was not run" for case in expected.keys() - results.keys()]
    wrong += [f"{case} is not in the list of cases" for case in results.keys() - expected.keys()]
    for case, result in results.items():
        allowed = "INFORMATIONAL" if case in INFORMATIONAL else "OK"
        if result["behavior"] != allowed:
            wrong.append(f"{case}: {result['behavior']}, not {allowed}")
        if result["behaviorClose"] not in ("OK", "INFORMATIONAL"):
            wrong.append(f"{case}: its close is {result['behaviorClose']}")
        if case in expected and str(result["remoteCloseCode"]) != expected[case]:
            wrong.append(f"{case}: closed with {result['remoteCloseCode']}, not {expected[case]}")
    for line in sorted(wrong):
        print(line, file=sys.stderr)
    if wrong:
        sys.exit(f"{len(wrong)} of {len(expected)} cases are not as they must be")
    print(f"ok: all {len(expected)} cases as they must be, each with its close code")


main(*sys.argv[1:])

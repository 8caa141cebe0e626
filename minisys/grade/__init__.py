"""The grader: an assignment's parts against a folder of somebody's code, each in a process of its own.

Read in this order: assignment.py (what a topic's ``parts.py`` is written with), wire.py (what passes between
the grader and a submission), child.py and guard.py (the submission's side), worker.py (limits and the end of
that process), judge.py (right or wrong, and which mistake it looks like), runner.py (a submission, a class),
report.py (table, JSON, CSV), stubs.py and selfcheck.py (handouts, and the proof that the tests can tell).

It contains accidents, not attacks: no security sandbox. ``book/how_to_grade.md`` says what to do about that.
"""

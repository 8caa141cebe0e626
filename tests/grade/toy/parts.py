"""A toy assignment whose parts take whole numbers, so that a submission's process starts without PyTorch.

`wsgiref` stands for the package with the solution: `FileWrapper` may be imported, the rest may not.
"""

from minisys.grade.assignment import Case, Cost, Mistake, Part

TITLE = "Toy"
PACKAGE = "wsgiref"
ALLOWED = {"FileWrapper": "wsgiref.util"}


def numbers(generator):
    first = int(generator.initial_seed() % 1000)
    return [
        Case(f"n = {first}", {"n": first}),
        Case("n = 0", {"n": 0}, "Nothing doubled is nothing."),
        Case("n = 21", {"n": 21}),
    ]


def additions(ask, generator, given):
    result, _ = ask({"n": 5})
    return [Cost("additions", result / 5, "a number", {"least": 1})]


PARTS = [
    Part(
        name="double",
        title="Twice a number",
        points=3,
        minutes=1,
        file="toy_assignment.py",
        function="double",
        cases=numbers,
        expected=lambda n: 2 * n,
        mistakes=[
            Mistake("square", "You square the number.", lambda n: n * n),
            Mistake("same", "You return the number itself.", lambda n: n),
        ],
        cost=additions,
        seconds=5.0,
        memory_mib=256,
    ),
    Part(
        name="negate",
        title="The number below zero",
        points=2,
        minutes=1,
        file="toy_assignment.py",
        function="negate",
        cases=numbers,
        expected=lambda n: -n,
        seconds=5.0,
        memory_mib=256,
    ),
    Part(
        name="extra",
        title="A bonus",
        points=1,
        minutes=1,
        file="toy_extra.py",
        function="triple",
        cases=numbers,
        expected=lambda n: 3 * n,
        bonus=True,
        seconds=5.0,
    ),
    Part(
        name="rare",
        title="What this machine cannot run",
        points=1,
        minutes=1,
        file="toy_extra.py",
        function="triple",
        cases=numbers,
        expected=lambda n: 3 * n,
        bonus=True,
        needs=("a_module_that_nobody_has",),
    ),
]

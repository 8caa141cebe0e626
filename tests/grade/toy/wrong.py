"""Wrong answers of the toy."""

from minisys.grade.assignment import Wrong

WRONG = [
    Wrong("double", "square", [("helper(n, n)", "n * n")]),
    Wrong("double", "same", [("helper(n, n)", "n")]),
    Wrong("double", "ZeroDivisionError", [("helper(n, n)", "n // 0")]),
    Wrong("negate", "A result is wrong", [("return -n", "return n")]),
]

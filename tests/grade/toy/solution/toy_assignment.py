"""Two functions on numbers."""

from wsgiref import FileWrapper

READER = FileWrapper


def double(n: int) -> int:
    """Twice `n`."""
    # BEGIN SOLUTION
    return helper(n, n)
    # END SOLUTION


# BEGIN SOLUTION
def helper(a, b):
    return a + b


# END SOLUTION


def negate(n: int) -> int:
    """`n` with the other sign."""
    # BEGIN SOLUTION
    return -n
    # END SOLUTION

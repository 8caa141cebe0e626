"""The bonus."""


def triple(n: int) -> int:
    """Three times `n`."""
    # BEGIN SOLUTION
    return 3 * n
    # END SOLUTION

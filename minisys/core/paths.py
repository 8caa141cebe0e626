"""Where the project's data files live: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def checkout() -> Path | None:
    """Root of the source checkout that this package was imported from, or None for an installed wheel."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "book").is_dir() else None


def claims_file() -> Path:
    """The claims ledger: ``book/claims.yml`` in a checkout, ``minisys/_data/claims.yml`` in a wheel."""
    root = checkout()
    return root / "book" / "claims.yml" if root else _PACKAGE / "_data" / "claims.yml"


def results_directory() -> Path:
    """The result files: ``benchmarks/results`` in a checkout, ``minisys/_data/results`` in a wheel."""
    root = checkout()
    return root / "benchmarks" / "results" if root else _PACKAGE / "_data" / "results"


def assignments_directory() -> Path:
    """The assignments: ``assignments`` in a checkout, ``minisys/_data/assignments`` in a wheel."""
    root = checkout()
    return root / "assignments" if root else _PACKAGE / "_data" / "assignments"

"""MiniSys: the large-model systems of 2025, implemented, measured and taught.

Each topic is a package of its own that can be read alone: ``minisys.nsa`` (native sparse
attention) is the first. ``minisys.core`` holds what every topic may use. Importing ``minisys``
needs neither a GPU nor Triton.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("minisys")
except PackageNotFoundError:  # run from a checkout that was never installed, as on a bare GPU machine
    __version__ = "0+unknown"

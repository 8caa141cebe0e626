"""Explorables: figures that move without a kernel. One ES module each, with data computed by the package.

explorable.py says what an explorable is and shows it; every other module builds the data of one.
"""

from minisys.viz.explorable import Explorable
from minisys.viz.kgrag_graph import kgrag_graph
from minisys.viz.nsa_decode import nsa_decode
from minisys.viz.nsa_reads import nsa_reads
from minisys.viz.nsa_tile_walk import nsa_tile_walk

__all__ = ["Explorable", "kgrag_graph", "nsa_decode", "nsa_reads", "nsa_tile_walk"]

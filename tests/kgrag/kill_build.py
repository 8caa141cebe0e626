"""Run by test_build.py in its own process: build an index slowly enough to be killed in the middle."""

import sys
import time

from minisys.kgrag.build import build_index
from minisys.kgrag.embedding import HashingEmbedder
from minisys.kgrag.extraction import ReadyTriples

DOCUMENTS = {
    f"document {n}": f"Person {n} knows Person {n + 1}. She lives in City {n % 7}." for n in range(400)
}
FACTS = {f"document {n}": [(f"Person {n}", "knows", f"Person {n + 1}")] for n in range(400)}


class SlowEmbedder(HashingEmbedder):
    def __call__(self, texts):
        time.sleep(0.004)
        return super().__call__(texts)


def build(path, embedder):
    return build_index(path, DOCUMENTS, embedder, ReadyTriples(FACTS), batch=4)


if __name__ == "__main__":
    print("ready", flush=True)
    build(sys.argv[1], SlowEmbedder(16))
    print("done", flush=True)

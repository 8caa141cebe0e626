"""Benchmarks, one module a topic, and the result files they write (`minisys.bench.results`)."""

"""The benchmark: solvers x network calls x problems. Start it with ``python benchmarks/run.py``."""

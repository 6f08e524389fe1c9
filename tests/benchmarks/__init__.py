"""How fast the kit is beside what people use today: `python -m tests.benchmarks NAME`, or `make bench` for all.

A row measures our way and the usual way in one process, on the same data, weights and threads, checks that their
results agree, and prints the ratio. It is no test: a timing says nothing of right and wrong.
"""

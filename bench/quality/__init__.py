"""Measures how close each way of sampling comes to the uncached run at equal cost.

    python -m bench.quality --prompts 8 --steps 28 --cfg 3 --shift 1    one condition, quickly
    python -m bench.quality                                             all, some hours on a CPU
    python -m bench.quality --report                                    docs/benchmarks.md

The settings of each way are swept on a few prompts; the best at each cost are measured on others.
"""

"""How close to the uncached run each way of sampling is at equal cost.

    python -m bench.quality --prompts 8 --steps 28 --cfg 3 --shift 1    one condition, quickly
    python -m bench.quality                                             all, some hours on a CPU
    python -m bench.quality --report                                    docs/benchmarks.md

Every way's settings are swept on a few prompts, the best at each cost are then measured on others.
"""

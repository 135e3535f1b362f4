"""Adds up the sums of cells, which gbstats leaves to its user, and has it test each measure; prints the seconds that it took."""

import json
import sys
import time

from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import RatioStatistic, SampleMeanStatistic


def statistic(sums):
    if len(sums) == 3:
        n, total, squares = sums
        return SampleMeanStatistic(n=int(n), sum=total, sum_squares=squares)
    n, total, squares, per, per_squares, products = sums
    return RatioStatistic(
        n=int(n),
        m_statistic=SampleMeanStatistic(n=int(n), sum=total, sum_squares=squares),
        d_statistic=SampleMeanStatistic(n=int(n), sum=per, sum_squares=per_squares),
        m_d_sum_of_products=products,
    )


question = json.load(sys.stdin)
kinds = question["kinds"]
began = time.perf_counter()
arms = []
for name in ("control", "treatment"):
    first, *others = question[name]
    totals = [list(sums) for sums in kinds[first]]
    for cell in others:
        for total, more in zip(totals, kinds[cell]):
            for at, value in enumerate(more):
                total[at] += value
    arms.append([statistic(total) for total in totals])
for control, treatment in zip(*arms):
    for scale in ("absolute", "relative"):
        config = SequentialConfig(difference_type=scale, alpha=0.05, sequential_tuning_parameter=5000)
        SequentialTwoSidedTTest(control, treatment, config).compute_result()
print(time.perf_counter() - began)

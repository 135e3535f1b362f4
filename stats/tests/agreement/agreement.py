"""Answers the same questions as stats/tests/vectors/methods.rs by gbstats, scipy and statsmodels.

Reads {"method": ..., "input": ...} from standard input, one a line, and writes the expected answer of each, one a line. Of
gbstats, which subtracts a cumulative probability from 1, p-values come only where that leaves digits; scipy gives the others.
"""

import json
import sys
import warnings

import numpy as np
import scipy.special
import scipy.stats
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from gbstats.frequentist.tests import (
    FrequentistConfig,
    OneSidedTreatmentGreaterTTest,
    OneSidedTreatmentLesserTTest,
    SequentialConfig,
    SequentialTwoSidedTTest,
    TwoSidedTTest,
)
from gbstats.models.statistics import (
    ProportionStatistic,
    RatioStatistic,
    RegressionAdjustedStatistic,
    SampleMeanStatistic,
    compute_theta,
)

# Where 1 - cdf has lost more than the comparison allows.
P_DIGITS = 1e-5


def plain(value):
    value = float(value)
    return value if np.isfinite(value) else {"inf": "inf", "-inf": "-inf"}[str(value)]


def arm(rows, input):
    rows = np.array(rows["values"])
    n = len(rows)
    mean = lambda i: SampleMeanStatistic(n=n, sum=rows[:, i].sum(), sum_squares=(rows[:, i] ** 2).sum())
    if "proportion" in input:
        return ProportionStatistic(n=n, sum=rows[:, input["proportion"]].sum())
    if "ratio" in input:
        i, j = input["ratio"]
        return RatioStatistic(
            n=n, m_statistic=mean(i), d_statistic=mean(j), m_d_sum_of_products=(rows[:, i] * rows[:, j]).sum()
        )
    i = input["mean"]
    if "covariate" in input:
        (k,) = input["covariate"]
        return RegressionAdjustedStatistic(
            n=n,
            post_statistic=mean(i),
            pre_statistic=mean(k),
            post_pre_sum_of_products=(rows[:, i] * rows[:, k]).sum(),
            theta=0,
        )
    return mean(i)


def contrast(input):
    sides, alpha = input["sides"], input["alpha"]
    fixed = {"two": TwoSidedTTest, "lower": OneSidedTreatmentGreaterTTest, "upper": OneSidedTreatmentLesserTTest}[sides]
    answer = {}
    # With a covariate this version of gbstats takes another variance for relative effects than later ones.
    scales = ["absolute"] if "covariate" in input else ["absolute", "relative"]
    for scale in scales:
        a, b = arm(input["control"], input), arm(input["treatment"], input)
        if "covariate" in input:
            answer["theta"] = float(compute_theta(a, b))
        test = fixed(a, b, FrequentistConfig(difference_type=scale, alpha=alpha))
        result = test.compute_result()
        score = test.critical_value
        tail = {"two": 2 * scipy.stats.t.sf(abs(score), test.dof), "lower": scipy.stats.t.sf(score, test.dof)}
        p = tail.get(sides, scipy.stats.t.cdf(score, test.dof))
        if p > P_DIGITS:
            p = result.p_value
        lower, upper = result.ci
        if sides == "upper":
            # gbstats 0.8 subtracts the width here; later versions add it.
            upper = 2 * result.expected - upper
        answer[scale] = {
            "effect": result.expected,
            "standard_error": result.uplift.stddev,
            "df": float(test.dof),
            "fixed": {"lower": plain(lower), "upper": plain(upper), "p": float(p)},
        }
        if sides == "two":
            config = SequentialConfig(
                difference_type=scale, alpha=alpha, sequential_tuning_parameter=input["tuning"]
            )
            a, b = arm(input["control"], input), arm(input["treatment"], input)
            result = SequentialTwoSidedTTest(a, b, config).compute_result()
            answer[scale]["sequence"] = {"lower": result.ci[0], "upper": result.ci[1], "p": float(result.p_value)}
    return answer


def clustered_mean(input):
    """A mean with cluster-robust errors, from every unit; statsmodels leaves K / (K - 1) to its user."""
    groups, values, weights = [], [], []
    for at, (total, size) in enumerate(input["clusters"]):
        # All units of a cluster at its mean have the same sum, and so the same cluster-robust error.
        groups += [at] * int(size)
        values += [total / size] * int(size)
    fit = sm.OLS(np.array(values), np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": np.array(groups), "use_correction": False}
    )
    k = len(input["clusters"])
    return {"effect": float(fit.params[0]), "standard_error": float(fit.bse[0] * np.sqrt(k / (k - 1)))}


def clustered_difference(input):
    control, treatment = (clustered_mean({"clusters": input[name]}) for name in ("control", "treatment"))
    error = np.hypot(control["standard_error"], treatment["standard_error"])
    return {"absolute": {"effect": treatment["effect"] - control["effect"], "standard_error": float(error)}}


def paired_clusters(input):
    """Regression of every unit on its arm, errors over clusters that have both."""
    groups, values, arms = [], [], []
    for name, of in (("control", 0.0), ("treatment", 1.0)):
        for at, (total, size) in enumerate(input[name]):
            groups += [at] * int(size)
            values += [total / size] * int(size)
            arms += [of] * int(size)
    fit = sm.OLS(np.array(values), sm.add_constant(np.array(arms))).fit(
        cov_type="cluster", cov_kwds={"groups": np.array(groups), "use_correction": False}
    )
    k = len(input["control"])
    return {"absolute": {"effect": float(fit.params[1]), "standard_error": float(fit.bse[1] * np.sqrt(k / (k - 1)))}}


def paired_differences(input):
    result = scipy.stats.ttest_1samp(input["differences"], 0)
    interval = result.confidence_interval(1 - input["alpha"])
    return {
        "effect": float(np.mean(input["differences"])),
        "fixed": {"lower": float(interval.low), "upper": float(interval.high), "p": float(result.pvalue)},
    }


def intraclass_correlation(input):
    sizes = np.array([len(cluster) for cluster in input["clusters"]])
    f = scipy.stats.f_oneway(*input["clusters"]).statistic
    size = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(sizes) - 1)
    return float((f - 1) / (f + size - 1))


def share_mismatch(input):
    counts, shares = np.array(input["counts"]), np.array(input["shares"])
    alphas = input["concentration"] * shares
    log = scipy.special.gammaln(alphas.sum()) - scipy.special.gammaln(alphas.sum() + counts.sum())
    log += (scipy.special.gammaln(alphas + counts) - scipy.special.gammaln(alphas) - counts * np.log(shares)).sum()
    chi = scipy.stats.chisquare(counts, counts.sum() * shares)
    return {"ln_bayes_factor": float(log), "chi_squared": float(chi.statistic), "chi_squared_p": float(chi.pvalue)}


def power(input):
    """The closed form; its power is that of statsmodels, with a smaller arm of nobs1."""
    share, effect = input["treatment_share"], input["effect"]
    sd = np.sqrt(input["control_variance"])
    nobs1 = input["units"] * share
    got = NormalIndPower().power(effect / sd, nobs1, input["alpha"], ratio=(1 - share) / share)
    return {"power": float(got)}


def sign_permutation(input):
    result = scipy.stats.permutation_test(
        (np.array(input["differences"]),), lambda x, axis: x.sum(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=np.inf, alternative="two-sided",
    )
    return {"p": float(result.pvalue)}


def ramp(input):
    points = np.array(input["points"])
    share = sm.add_constant(points[:, 0])
    control = sm.WLS(points[:, 1], share, weights=1 / points[:, 2]).fit(cov_type="fixed scale")
    treatment = sm.WLS(points[:, 3], share, weights=1 / points[:, 4]).fit(cov_type="fixed scale")
    residual = (control.resid**2 / points[:, 2]).sum()
    both = np.ones(2)
    return {
        "drift": float(control.params[1]),
        "drift_error": float(control.bse[1]),
        "drift_p": float(control.pvalues[1]),
        "line_p": float(scipy.stats.chi2.sf(residual, len(points) - 2)),
        "total": float(treatment.params.sum() - control.params[0]),
        "total_error": float(np.sqrt(both @ treatment.cov_params() @ both + control.cov_params()[0, 0])),
    }


def tails(input):
    x, p, df = input["x"], input["p"], input["df"]
    return {
        "normal_sf": float(scipy.stats.norm.sf(x)),
        "normal_upper": float(scipy.stats.norm.isf(p)),
        "t_sf": float(scipy.stats.t.sf(x, df)),
        "t_upper": float(scipy.stats.t.isf(p, df)),
        "chi_squared_sf": float(scipy.stats.chi2.sf(x, df)),
    }


def adjusted(method):
    return lambda input: [float(p) for p in multipletests(input["p"], method=method)[1]]


METHODS = {
    "contrast": contrast,
    "clustered_mean": clustered_mean,
    "clustered_difference": clustered_difference,
    "paired_clusters": paired_clusters,
    "paired_differences": paired_differences,
    "intraclass_correlation": intraclass_correlation,
    "share_mismatch": share_mismatch,
    "holm": adjusted("holm"),
    "benjamini_hochberg": adjusted("fdr_bh"),
    "power": power,
    "sign_permutation": sign_permutation,
    "ramp": ramp,
    "tails": tails,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(METHODS[question["method"]](question["input"])))

"""How often `report.claims` says "no loss", by what is really lost: its power, and its errors, on simulated dev sets.

    python -m bench.power docs/results/claims.json [--sentences 872] [--tries 2000]

On each sentence the compressed model is right where the baseline is wrong, or the other way round, by chance: `differing` is the share
of sentences where one of the two happens, `loss` how much oftener the second does. Of several seeds each draws for itself. A loss of the
margin itself must be called none in at most 5 % of the sets. Seconds.
"""

from pathlib import Path

from bench import finished
from common import cli, forms

LOSSES, DIFFERING, SEEDS = (0.0, 0.0025, 0.005, 0.01), (0.02, 0.04, 0.08), (1, 3)
RIGHT = 0.9  # of the baseline's answers


def simulated(rng, sentences: int, seeds: int, loss: float, differing: float):
    """(ours (seeds, S), baseline (S,), labels (S,)): label ids of one dev set."""
    import numpy as np

    baseline = (rng.random(sentences) < RIGHT).astype(int)
    drawn = rng.random((seeds, sentences))
    lost, gained = (differing + loss) / 2 / RIGHT, (differing - loss) / 2 / (1 - RIGHT)
    ours = np.where(baseline == 1, drawn >= lost, drawn < gained).astype(int)
    return ours, baseline, np.ones(sentences, int)


def table(result: dict) -> str:
    """A line for each case; docs/RELIABILITY.md holds it."""
    from tabulate import tabulate

    lines = [[row["seeds"], f"{100 * row['differing']:g}", f"{100 * row['loss']:g}", f"{100 * row['said']:.1f}"] for row in result["rows"]]
    return tabulate(lines, headers=["seeds", "sentences that differ, %", "points really lost", "called no loss, %"], tablefmt="github",
                    disable_numparse=True)


def main(args) -> None:
    import numpy as np

    from common import provenance
    from report import claims

    rng, rows = np.random.default_rng(args.seed), []
    for seeds in SEEDS:
        for differing in DIFFERING:
            for loss in LOSSES:
                said = [claims.no_loss(*simulated(rng, args.sentences, seeds, loss, differing))["holds"] for _ in range(args.tries)]
                rows.append({"seeds": seeds, "differing": differing, "loss": loss, "said": float(np.mean(said))})
    result = {"code": provenance.code_identity(), "sentences": args.sentences, "tries": args.tries, "margin": claims.MARGIN, "rows": rows}
    finished.write(result, args.output)
    print(table(result))


if __name__ == "__main__":
    parser = cli.Parser(__doc__)
    parser.add_argument("output", type=Path, metavar="FILE", help="the JSON file to write")
    parser.add_argument("--sentences", type=forms.count, default=872)
    parser.add_argument("--tries", type=forms.count, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    cli.run(main, parser.parse_args())

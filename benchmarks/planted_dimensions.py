"""Does the search find planted dimensions, with and without alignment? A table for docs/dimension-search.md."""

import argparse

from benchmarks.markdown import table
from trainer.search.planted import make_truth
from trainer.search.recovery import recipe, recover


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(1, parser.parse_args().seeds + 1)
    rows = []
    for align in (True, False):
        for seed in seeds:
            one = recover(make_truth(seed), recipe(seed, align))
            rows.append(
                [
                    "aligned" if align else "as the paper has it",
                    str(seed),
                    ", ".join(map(str, one.true)),
                    ", ".join(map(str, one.found)),
                    "yes" if one.within else "no",
                    f"{one.passes:.1f}",
                ]
            )
            print(rows[-1], flush=True)
    print(table(("axes", "seed", "planted", "found", "all within 1", "passes"), rows))


if __name__ == "__main__":
    main()

"""Rules under attacks as one picture."""

from __future__ import annotations

from pathlib import Path

from harness.robustness_table import BACKDOOR, Table

__all__ = ["draw"]


def draw(made: Table, setting: str, path: Path) -> None:
    """A heat map of accuracies, a rule a line and an attack a column, with the numbers in it; under each of the
    backdoor's, how often it worked."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [[100 * made.accuracy(rule, attack) for attack in made.attacks] for rule in made.rules]
    size = (2.4 + 0.95 * len(made.attacks), 1.9 + 0.52 * len(made.rules))
    figure, axes = plt.subplots(figsize=size, constrained_layout=True)
    image = axes.imshow(shown, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for line, rule in enumerate(made.rules):
        for column, attack in enumerate(made.attacks):
            value, success = shown[line][column], made.success(rule)
            text = f"{value:.1f}" + (f"\n({100 * success:.0f})" if attack == BACKDOOR and success is not None else "")
            colour = "black" if value > 55 else "white"
            axes.text(column, line, text, ha="center", va="center", color=colour, fontsize=9, linespacing=1.1)
    axes.set_xticks(range(len(made.attacks)), made.attacks, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(made.rules)), made.rules)
    axes.tick_params(length=0)
    axes.set_title("accuracy in % under attack (in brackets: how often the backdoor works)", fontsize=11, loc="left")
    axes.set_xlabel("\n".join(_wrapped(setting)), fontsize=8, loc="left")
    figure.colorbar(image, ax=axes, label="accuracy, %", pad=0.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _wrapped(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, 110)

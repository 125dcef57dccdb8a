"""Export the policy of a run to a file that runs without rlrat, compared with ours: ONNX, PyTorch, NumPy or C."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from rlrat.runs.arguments import read_command_line

Format = Literal["onnx", "torch-export", "aoti", "torchscript", "numpy", "c"]
FORMATS = get_args(Format)


@dataclass
class Arguments:
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, <run-dir>/<dataset>/<agent>/<activation>/seed<k>, or a checkpoint file in it."""
    format: Format = "onnx"
    """onnx; torch-export, aoti or torchscript for PyTorch, in Python or C++; numpy or c: source code, of MLPs."""
    out: Path | None = None
    """Where to write; by default policy.onnx, policy.pt2, ... in the run folder. numpy and c write weights beside."""
    which: Literal["last", "best"] = "last"
    """The newest checkpoint, or the one that --keep-best chose."""
    opset: int | None = None
    """Of ONNX, at least 18, which is the default."""
    dataset: str | None = None
    """Compare on the observations of this dataset; by default the run's."""
    activation_modules: tuple[str, ...] = ()
    """Modules of yours with the activations that it was trained with; nothing that a run names is imported."""


if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    ARGUMENTS = read_command_line(Arguments, __doc__)

from rlrat.errors import one_line_errors, warn
from rlrat.runs import export


def main(arguments: Arguments) -> None:
    settings = dict(vars(arguments))
    done = export(settings.pop("run"), **settings)
    sizes = [f"{file} ({file.stat().st_size:,} bytes)" for file in done.files]
    print("\n".join(sizes))
    if done.difference is None:
        warn("there is no C compiler: what was written was not compared with our policy")
    else:
        print(f"largest difference to our policy's actions: {done.difference:.2g}, on {done.compared_on}")


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)

"""Learning curves from files: loss against tokens, every mistake named with its file, line and field.

    metrics.jsonl of a run | CSV | trainer_state.json | TensorBoard  ->  Curve(parameters, tokens, loss)

A law describes trainings from scratch at a learning rate that has not decayed, so a curve knows where that holds (`stable`).
"""

from outgrow.planning.curves.counting import ParameterCount, law_parameters
from outgrow.planning.curves.curve import Curve, Points, check_falls, select
from outgrow.planning.curves.curve_file import CurveFile
from outgrow.planning.curves.reading import read_curves

__all__ = [
    "Curve",
    "CurveFile",
    "ParameterCount",
    "Points",
    "check_falls",
    "law_parameters",
    "read_curves",
    "select",
]

"""Scaling laws as values: loss from size and length of a training, gradients, inverses, and fits with intervals.

    one size's curve      loss(tokens)              = E_N + (scale / tokens)^b               `PowerCurve`
    a law                 loss(parameters, tokens)    one curve per size                     `Chinchilla`, `KaplanSteps` ...
    a fitted law          loss +- interval, and whether the question lies outside the data   `FittedLaw`

Losses are nats per token. Nothing here needs torch.
"""

from outgrow.planning.laws.chinchilla import CHINCHILLA, CHINCHILLA_REPLICATED, Chinchilla
from outgrow.planning.laws.fitting import FittedLaw, fit_law
from outgrow.planning.laws.forms import LAW_FORMS, LawForm
from outgrow.planning.laws.kaplan import (
    KAPLAN_BATCH,
    KAPLAN_DATA,
    KAPLAN_FRONTIER,
    KAPLAN_STEPS,
    STAGED_TRAINING,
    CriticalBatch,
    KaplanData,
    KaplanFrontier,
    KaplanSteps,
)
from outgrow.planning.laws.power import Array, Optimum, PowerCurve
from outgrow.planning.laws.prediction import Interval, Prediction, Range
from outgrow.planning.laws.saturation import Saturation

__all__ = [
    "CHINCHILLA",
    "CHINCHILLA_REPLICATED",
    "KAPLAN_BATCH",
    "KAPLAN_DATA",
    "KAPLAN_FRONTIER",
    "KAPLAN_STEPS",
    "LAW_FORMS",
    "STAGED_TRAINING",
    "Array",
    "Chinchilla",
    "CriticalBatch",
    "FittedLaw",
    "Interval",
    "KaplanData",
    "KaplanFrontier",
    "KaplanSteps",
    "LawForm",
    "Optimum",
    "PowerCurve",
    "Prediction",
    "Range",
    "Saturation",
    "fit_law",
]

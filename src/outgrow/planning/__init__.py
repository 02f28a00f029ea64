"""`outgrow plan`: from a plan file (target, candidates, law or curves) to a schedule, its saving, and a run.yaml.

plan.yaml -> PlanConfig -> WorkedPlan (problem, paths, intervals, warnings) -> table, picture, JSON, run.yaml
"""

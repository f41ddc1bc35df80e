"""The statistics of the decision, pure and deterministic: no pytest, no device, standard library at import.

- `exact`: binomial tails and the one-sided exact McNemar test
- `dirichlet`: the bound on a mean that everything is decided with (Gaffke; Clopper-Pearson is a special case)
- `sample`: scores of one arm, or paired differences of two, with bounds, p-values and margins
- `paired`: one arm against another: beats, worse, excluded, holds
- `clusters`: rows that share a group: effective number of rows, sign-flip test
- `levels`: alpha for claims and for brakes, spending over looks, Holm
- `power`: chances to beat and to exclude, how many rows settle a question, the smallest gain that shows
- `plan`: the plan line of a held-out file
"""

"""Scores of a trained model: tables of measures per video, a summary with intervals, a page to read, and the gates.

Nothing here trains. Always `from eval.x import y`: importing the package itself would hide the builtin `eval`.
"""

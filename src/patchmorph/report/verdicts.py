"""Verdicts as pages show them: a sign beside each colour, and what a reader should do."""

VERDICTS = {
    "pass": ("✓", "Nothing unusual was found."),
    "check": ("⚠", "Look at it before you use it."),
    "fail": ("✗", "Do not use it."),
}

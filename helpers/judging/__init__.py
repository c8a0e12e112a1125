"""What counts as a success, and how often chance alone would succeed.

judge       a sentence model, a threshold, and what an echo is
rules       by what a reading is judged: the description, or the prompt
score       the score columns of a table of rows
chance      the nulls: the same readings, judged by other prompts
counts      prompts interpreted per layer, beside chance
effects     successes beside chance, with intervals and tests
criteria    which of several readings of a vector to believe, chosen blind
evidence    what the model itself tells of its readings
more_evidence  the same of what costs more: beside the vectors of other prompts, and sampled
confidence  how likely a reading is right, fitted on such evidence
"""

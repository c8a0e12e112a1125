"""What cheap lenses say of a vector: the words that a matrix product gives it, and the texts whose vectors are near.

logit       the model's own last norm and head, on any vector
jacobian    the same, after the mean effect of a block's output on the last block's
fitting     a Jacobian lens of a model, text by text
neighbours  the nearest vectors of other texts
columns     the lens columns of a table of rows
"""

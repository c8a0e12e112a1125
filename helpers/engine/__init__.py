"""The method: read a vector, put its multiple in place of the target prompt's placeholder, let the model write.

hooks        record and patch what modules produce
activations  run source prompts and keep what their blocks produced
references   other prompts' last tokens, and what they have in common
vectors      the vector that an item stands for, amplified in its way
given        vectors of no prompt: a file's, an expression's, random ones
prompt       the target prompt, read up to its placeholder once, continued from any vectors
attention    attention that reads the shared prefix once for all rows
compile      compiled decoder blocks, for long runs
batches      how many rows at a time, and what happens to a batch that fails
sampling     how new tokens are chosen, and how sure the model was
writing      what the rows of a batch have written so far
interpret    the method in two calls: interpret vectors, run a plan
plain        what is written after a text when nothing is patched
mapping      vectors of one model in the space of another
pace         how many threads work on a batch
teacher      how likely given texts are under vectors
labels       how probable labels are, beside chance
"""

"""What things are called. Nothing here imports torch, so that a wrong setting is refused in a moment.

components  what is read: a block's vectors, guidance, sums, and controls
methods     how a reading is chosen among several: Patchscopes, Superscopes
rows        the row schema, and the records that it is made of
target      the target prompt and its placeholder
decoding    greedy, or sampled with a seed
grammar     how a setting is written: numbers, lists, ranges, layers
settings    the one record of settings, for shell, notebooks, page, link and JSON
plans       prompts × tokens × components × layers × amplifiers, in order, with ids
files       where files go, and how they are written
prompts     the prompt files: prompts, gold descriptions, categories
chats       chats as prompts, and the turns in them
expressions what stands for a vector, like "King" - "Man" + "Woman", and its grammar
vectors     given vectors, of a file or an expression, as a plan's sources
labels      hypotheses about a vector, and how a target prompt goes on with them
lenses      what a lens is fitted with, and where it is kept
machine     what this machine gives to this process
"""

"""Long runs: they can be stopped, killed and resumed, in one process or in many.

stopping   how a run ends before it is through: signals, a full disk
progress   a bar, or in a log a line a minute
locks      a folder that no other process changes
ledger     what has been read, on disk batch by batch
loop       read what a ledger lacks
cluster    the same on Dask workers
status     what runs have left on disk
results    CSVs and the JSON of what made them
plain      what a model writes after texts when nothing is patched, each text once
sweep      plans read and scored in one call, as a table
labels     which of a few labels a vector is, as a table
vectors    given vectors read beside random ones, and which reading to believe
session    one model and one judge in memory
readings   an experiment's rows: taken where they are finished, read where they are not
evidence   what the model tells of stored readings, kept beside them in files of their kind
"""

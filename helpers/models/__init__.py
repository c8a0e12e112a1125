"""Load a language model from any source, and prove which of its modules are what.

catalogue  small models that install from packages
sources    where a model's files are, and what identifies them
gguf       a GGUF file, dequantised once and kept
gguf_header  whether a GGUF file's header fits its file
families   which modules of a block add to the residual stream, proved at load
pieces     tokens as text that can be read
load       the card of a model, and the model in memory
weights    rows of a model's weight matrices, by the families' names
vector_files  files of vectors: safetensors, SAEs, control vectors and more
readers    published readers: how their files say that vectors are put in place

The first three import no torch: a model can be listed, found and fetched without waiting for it.
"""

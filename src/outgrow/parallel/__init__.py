"""Many processes: who they are, which part of every tensor is whose, and how a model is cut among them.

process.py    who started this process, whether it may speak, how it ends: without torch
ranks.py      the processes and the few words between them; one process is the case of one rank
pieces.py     which blocks of a whole tensor lie here, and filling them from any source
mesh.py       which rank is where, and which of the data it does
tensor.py     a model cut inside its layers, and whether it can be
sharding.py   a model cut by FSDP2 over a mesh, its layers named by its architecture file
launch.py     one process per device on this host
"""

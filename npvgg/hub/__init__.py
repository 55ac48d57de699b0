"""Which pretrained weights there are, where they lie on this machine, and how they come.

`pretrained` is the table of tags, `locate` finds their files (in the package, in the Hugging Face
cache, else fetched), `client` fetches. The folder may import `formats` and `data`. What must not be
broken: the network is reached only for what is not there, and only when asked; whatever a server
says is a stranger's word, and nothing of it becomes a path outside the cache.
"""

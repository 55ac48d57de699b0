"""Bytes of a file → named arrays, and back, strictly checked; nothing here knows RepVGG.

`checkpoint` is the front: it recognises a file by its bytes. Behind it stand `safetensorsfile`,
`torch/` (a .pth, read without PyTorch), `sharded` (several files and their index) and `folder`
(which file of a repository); `npyfile` reads arrays that are to be compared, `tararchive` finds the
files of an archive of photos. They read through `files` (regular files alone, whole, never mapped),
`ziparchive`, `jsontext` and `untrusted` (limits, and text that is safe to print). The folder may
import `errors` alone. What must not be broken: no byte of a file is run or believed, the work is
bounded by the file's size, every failure is one WeightsError that begins with the path, and a file
is written whole or not at all. SECURITY.md has the limits.
"""

"""A photo → a tensor, equal to timm's to the last bit; and the names of its classes.

`opening`: bytes of a file → one 8-bit Pillow image, the only module that opens image files.
`transform`: that image → resized, cropped, normalised (C, H, W) float32; `ahead`: in threads.
`exif`, `jpeg`: what metadata and segments claim. `labels`, `labellines`: class names.
They import `errors` and `formats`, and Pillow when it is needed, never the network.

What must not be broken here: the bits (`tests/photos` and the live comparison with timm); every
failure of a photo is one `ImageError` that begins with its name, whatever Pillow raised; what it
holds beyond what the network sees is a note; none of Pillow's or Python's process-wide settings
changes, for a program of the user's may depend on them.
"""

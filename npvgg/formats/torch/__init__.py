"""PyTorch's files, read and written without PyTorch, nothing in them run."""

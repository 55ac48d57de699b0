"""The deploy network as ONNX: a graph as data, layers on it, and the file."""

"""Exported models: a checkpoint as one ONNX file, in float32 or in 8 bits, and running such a file."""

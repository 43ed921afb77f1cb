"""Export a checkpoint to one ONNX file, in float32 or in 8 bits, and run it."""

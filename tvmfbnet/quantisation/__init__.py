"""From float nets to int8: quantisation of ONNX models, and what a quantised net has to equal."""

"""A page on which one image is attacked: in Python (gradio), and in the browser alone (ONNX)."""

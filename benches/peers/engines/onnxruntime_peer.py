"""ONNX Runtime: `onnxruntime_peer.py MODEL.onnx THREADS` (0: its own default)."""

import sys

import numpy as np
import onnxruntime as ort
from protocol import serve


def session(path, threads):
    """A session with its defaults, but for the number of threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(runtime, ids):
    """What the exported model asks for."""
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {value.name: given[value.name] for value in runtime.get_inputs()}


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    runtime = session(path, threads)

    def prepare(ids):
        # Inputs and output are bound once: what is timed is the runtime, not the copies of its Python wrapper.
        binding = runtime.io_binding()
        # The bound values lie in the arrays, which must stay.
        held = feeds(runtime, ids)
        for name, array in held.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        binding.bind_output(runtime.get_outputs()[0].name, "cpu")

        def forward(_held=held):
            runtime.run_with_iobinding(binding)
            return binding.get_outputs()[0].numpy()

        return forward

    serve(f"ONNX Runtime {ort.__version__}", prepare)


if __name__ == "__main__":
    main()

"""OpenVINO: `openvino_peer.py MODEL.onnx THREADS [f32|bf16]` (0: its own default)."""

import sys

import numpy as np
import openvino as ov
from protocol import serve


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    precision = sys.argv[3] if len(sys.argv) > 3 else "f32"
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = ov.Core().compile_model(path, "CPU", settings)

    def prepare(ids):
        request = compiled.create_infer_request()
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        for value in compiled.inputs:
            request.set_tensor(value, ov.Tensor(given[value.any_name]))

        def forward():
            request.infer()
            return request.get_output_tensor(0).data

        return forward

    serve(f"OpenVINO {ov.get_version().split('-')[0]}", prepare)


if __name__ == "__main__":
    main()

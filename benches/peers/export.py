"""Writes a model as plain.onnx, fused.onnx and int8.onnx, the way users of optimum do. Runs in the export environment."""

import shutil
import sys
import tempfile
from pathlib import Path

from optimum.onnxruntime import AutoQuantizationConfig, ORTModelForFeatureExtraction, ORTOptimizer, ORTQuantizer
from optimum.onnxruntime.configuration import OptimizationConfig


def main() -> None:
    model_dir, out = sys.argv[1], Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        plain, fused, int8 = (Path(scratch) / name for name in ("plain", "fused", "int8"))
        model = ORTModelForFeatureExtraction.from_pretrained(model_dir, export=True)
        model.save_pretrained(plain)
        optimizer = ORTOptimizer.from_pretrained(model)
        optimizer.optimize(save_dir=fused, optimization_config=OptimizationConfig(optimization_level=2))
        quantizer = ORTQuantizer.from_pretrained(model)
        preset = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
        quantizer.quantize(save_dir=int8, quantization_config=preset)
        for directory in (plain, fused, int8):
            (file,) = directory.glob("*.onnx")
            shutil.copy(file, out / f"{directory.name}.onnx")


if __name__ == "__main__":
    main()

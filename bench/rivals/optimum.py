"""The teacher by optimum-intel: huggingface/optimum-intel, docs/source/openvino/optimization.mdx, Full quantization.

It is what sentence-transformers' export_static_quantized_openvino_model ("openvino-qint8") calls, here for a classifier. Ranges of seven
bits where the processor lacks VNNI are NNCF's advice.
"""

import functools

import numpy as np

from bench.rivals import Model, calibration, encoder, has_vnni, megabytes


def optimum_openvino_qint8(args) -> Model:
    import nncf
    from optimum.intel import OVConfig, OVModelForSequenceClassification, OVQuantizationConfig, OVQuantizer

    whole = OVModelForSequenceClassification.from_pretrained(args.teacher, export=True, compile=False)
    typed = "token_type_ids" in whole.input_names

    def inputs(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return batch | ({"token_type_ids": np.zeros_like(batch["input_ids"])} if typed else {})

    config = OVQuantizationConfig(overflow_fix="disable" if has_vnni() else "first_layer_only")
    OVQuantizer.from_pretrained(whole).quantize(nncf.Dataset([inputs(sentence) for sentence in calibration(args)]),
                                                save_directory=args.work / "ov", ov_config=OVConfig(quantization_config=config))

    @functools.cache
    def opened(threads: int):
        how = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        return OVModelForSequenceClassification.from_pretrained(args.work / "ov", ov_config=how)

    return Model(encoder(args.teacher), lambda batch, threads: opened(threads)(**inputs(batch)).logits,
                 megabytes(args.work / "ov" / "openvino_model.bin"))

"""The teacher by torchao's PT2E and inductor on x86: pytorch/ao, docs/source/pt2e_quantization/pt2e_quant_x86_inductor.rst.

Its page: dynamic suits BERT, static calibrates; inductor freezes the weights; ranges of seven bits where the processor lacks VNNI. And
max-autotune as in pytorch/tutorials, max_autotune_on_CPU_tutorial.rst.
"""

from bench.rivals import Model, calibration, encoder, has_vnni
from bench.rivals.torch import compiled, inputs_to_export, saved_mb, teacher_of


def _quantised(args, dynamic: bool, mode: str | None = None) -> Model:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    encode, model = encoder(args.teacher), teacher_of(args.teacher)
    example, shapes = inputs_to_export(encode)
    with torch.no_grad():
        graph = torch.export.export(model, (), example, dynamic_shapes=shapes).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=dynamic, reduce_range=not has_vnni()))
        prepared = prepare_pt2e(graph, quantizer)
        for sentence in calibration(args):  # "a must for both"
            prepared(**{name: torch.from_numpy(value) for name, value in sentence.items()})
        converted = convert_pt2e(prepared)
    return Model(encode, compiled(converted, args.threads, mode), saved_mb(converted, args.work))


def torchao_pt2e_int8_dynamic(args) -> Model:
    return _quantised(args, dynamic=True)


def torchao_pt2e_int8_static(args) -> Model:
    return _quantised(args, dynamic=False)


def torchao_pt2e_int8_autotuned(args) -> Model:
    return _quantised(args, dynamic=True, mode="max-autotune")

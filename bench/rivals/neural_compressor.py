"""The teacher by Intel's Neural Compressor and inductor: intel/neural-compressor, docs/source/PT_StaticQuant.md and PT_DynamicQuant.md.

Its pages: export, prepare, calibrate, convert, freeze, compile. Of dynamic scales a channel each, as inductor's int8 products take no
others. It saves weights unfolded, so in 32 bits.
"""

from bench.rivals import Model, calibration, encoder
from bench.rivals.torch import compiled, inputs_to_export, saved_mb, teacher_of


def _quantised(args, config) -> Model:
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import convert, prepare

    encode, model = encoder(args.teacher), teacher_of(args.teacher)
    example, shapes = inputs_to_export(encode)
    prepared = prepare(export(model, example_inputs=tuple(example.values()), dynamic_shapes=shapes), config)
    with torch.no_grad():
        for sentence in calibration(args):
            prepared(*map(torch.from_numpy, sentence.values()))
    converted = convert(prepared)

    class ByName(torch.nn.Module):
        """It takes its inputs by place alone."""

        def __init__(self):
            super().__init__()
            self.converted = converted

        def forward(self, **batch):
            return self.converted(*(batch[name] for name in example))

    return Model(encode, compiled(ByName(), args.threads), saved_mb(converted, args.work))


def neural_compressor_int8_dynamic(args) -> Model:
    from neural_compressor.torch.quantization import DynamicQuantConfig

    return _quantised(args, DynamicQuantConfig(w_granularity="per_channel"))


def neural_compressor_int8_static(args) -> Model:
    from neural_compressor.torch.quantization import StaticQuantConfig

    return _quantised(args, StaticQuantConfig())

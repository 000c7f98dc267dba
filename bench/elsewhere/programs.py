"""What a user elsewhere types to open an exported model: programs that know nothing of this project.

Each is run as `python -c PROGRAM FOLDER TEXTS.json` and prints {"version", "labels"} as JSON.
"""

_READ = """
import json, sys
folder, texts = sys.argv[1], json.load(open(sys.argv[2], encoding="utf-8"))
names = json.load(open(folder + "/config.json", encoding="utf-8"))["id2label"]
parts = [texts[i:i + 32] for i in range(0, len(texts), 32)]
def say(version, labels): print(json.dumps({"version": version, "labels": labels}))
"""
TOKENIZERS = _READ + """
import numpy, onnxruntime, tokenizers
tokenizer, session = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json"), onnxruntime.InferenceSession(folder + "/model.onnx")
tokenizer.enable_padding()
labels = []
for part in parts:
    spelt = tokenizer.encode_batch(part)
    logits = session.run(["logits"], {"input_ids": numpy.array([one.ids for one in spelt], numpy.int64),
                                      "attention_mask": numpy.array([one.attention_mask for one in spelt], numpy.int64)})[0]
    labels += [names[str(i)] for i in logits.argmax(-1)]
say(onnxruntime.__version__, labels)
"""
AUTO_TOKENIZER = _READ + """
import onnxruntime, transformers
tokenizer, session = transformers.AutoTokenizer.from_pretrained(folder), onnxruntime.InferenceSession(folder + "/model.onnx")
labels = []
for part in parts:
    logits = session.run(["logits"], dict(tokenizer(part, truncation=True, padding=True, return_tensors="np")))[0]
    labels += [names[str(i)] for i in logits.argmax(-1)]
say(transformers.__version__, labels)
"""
PIPELINE = _READ + """
import transformers
classify = transformers.pipeline("text-classification", model=folder, trust_remote_code=True, device="cpu")
say(transformers.__version__, [max(scores, key=lambda one: one["score"])["label"]
                               for part in parts for scores in classify(part, top_k=None, batch_size=32, truncation=True)])
"""
OPTIMUM = _READ + """
from importlib.metadata import version
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline
model, tokenizer = ORTModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
say(version("optimum-onnx"), [one["label"] for part in parts for one in classify(part, batch_size=32, truncation=True)])
"""
TEXT_IN = _READ + """
import numpy, onnxruntime
from importlib.metadata import version
from onnxruntime_extensions import get_library_path
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(get_library_path())
session = onnxruntime.InferenceSession(folder + "/text.onnx", options)
say(version("onnxruntime-extensions"), [session.run(["label"], {"text": numpy.array([text], dtype=object)})[0][0] for text in texts])
"""

"""Run by tests/test_models.py in a process of its own, because the Hub client reads its endpoint when
imported.

Plays one learner against one small Hub: everything that goes wrong first, then a good download, then no
network. Prints one line of JSON: for each step the error (or what was loaded) and what the server was asked.
"""

import json
import os
import sys
import time
from pathlib import Path

from hub_server import HubServer


def main(repository: Path, cache: Path) -> None:
    told = {}
    with HubServer() as hub:
        os.environ.update(hub.environment(cache), HF_TOKEN="hf_of_a_learner", LESSONLIB_LANG="en")
        time.sleep = lambda seconds: None  # the client waits before it tries again

        from lessonlib import models, runtime
        from lessonlib.language import LessonError

        def step(name: str, key: str, rt: runtime.Runtime, **options: object) -> None:
            hub.requests.clear()
            outcome: dict = {}
            try:
                model, tokenizer = models.load(key, rt, **options)
                outcome["dtypes"] = sorted({str(weight.dtype) for weight in model.parameters()})
                outcome["sum"] = float(sum(weight.detach().double().sum() for weight in model.parameters()))
                outcome["attention"] = model.config._attn_implementation
                outcome["padding"] = [tokenizer.padding_side, tokenizer.pad_token]
            except LessonError as error:
                outcome |= {"en": error.en, "vi": error.vi, "cause": type(error.__cause__).__name__}
            outcome["requests"] = [vars(request).copy() for request in hub.requests]
            outcome["files"] = [str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()]
            told[name] = outcome

        t4 = runtime.Gpu("Tesla T4", (7, 5), 14.7)
        bloom_rt = runtime.detect(family="bloom", gpu=t4, work=cache)
        llama_rt = runtime.detect(family="llama", gpu=t4, work=cache, backend="transformers")
        bloom = models.CATALOGUE["bloom-560m"]
        llama = models.CATALOGUE["llama-3.2-3b"]

        step("missing", llama.key, llama_rt)
        hub.add(llama.hub_id, repository, revision=llama.revision, gated=True)
        step("gated", llama.key, llama_rt, original=True)
        hub.add(bloom.hub_id, repository, revision="f" * 40)
        step("commit gone", bloom.key, bloom_rt)
        hub.add(bloom.hub_id, repository, revision=bloom.revision)
        hub.outage = 503
        step("outage", bloom.key, bloom_rt)
        hub.outage = None
        hub.cuts["model.safetensors"] = 1000
        step("broken for good", bloom.key, bloom_rt, device_map="cpu")
        hub.cuts["model.safetensors"] = 1
        step("broken once", bloom.key, bloom_rt, device_map="cpu")
    step("no network, in the cache", bloom.key, bloom_rt, device_map="cpu")
    step("no network", llama.key, llama_rt)
    (weights,) = cache.glob("hub/models--bigscience--bloom-560m/snapshots/*/model.safetensors")
    os.truncate(weights, weights.stat().st_size // 2)
    step("damaged", bloom.key, bloom_rt, device_map="cpu")
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

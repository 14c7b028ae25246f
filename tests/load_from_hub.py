"""Run by tests/models/test_models.py in a process of its own, because the Hub client reads its endpoint when
imported.

Plays one learner against one small Hub: everything that goes wrong first, then a good download, then no
network. Prints one line of JSON: for each step the error (or what was loaded) and what the server was asked.
"""

import json
import os
import shutil
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

from faulty_hub import FaultyHub


def main(repository: Path, cache: Path) -> None:
    told = {}
    with FaultyHub() as hub:
        os.environ.update(hub.environment(cache), HF_TOKEN="hf_of_a_learner", LESSONLIB_LANG="en")
        time.sleep = lambda seconds: None  # the client waits before it tries again

        from lessonlib.models import _loading as models
        from lessonlib.runtime import _detect as runtime
        from lessonlib.runtime._language import LessonError

        def step(name: str, key: str, rt: runtime.Runtime, **options: object) -> None:
            hub.requests.clear()
            outcome: dict = {}
            said = StringIO()
            try:
                with redirect_stdout(said):
                    model, tokenizer = models.load(key, rt, **options)
                outcome["dtypes"] = sorted({str(weight.dtype) for weight in model.parameters()})
                outcome["sum"] = float(sum(weight.detach().double().sum() for weight in model.parameters()))
                outcome["attention"] = model.config._attn_implementation
                outcome["padding"] = [tokenizer.padding_side, tokenizer.pad_token]
            except LessonError as error:
                outcome |= {"en": error.en, "vi": error.vi, "cause": type(error.__cause__).__name__}
            outcome["said"] = said.getvalue()
            outcome["requests"] = [vars(request).copy() for request in hub.requests]
            outcome["files"] = [str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()]
            told[name] = outcome

        def forget(name: str) -> None:
            shutil.rmtree(cache / "hub" / f"models--{name.replace('/', '--')}")

        t4 = runtime.Gpu("Tesla T4", (7, 5), 14.7)
        bloom_rt = runtime.detect(family="bloom", gpu=t4, work=cache)
        llama_rt = runtime.detect(family="llama", gpu=t4, work=cache, backend="transformers")
        bloom = models.CATALOGUE["bloom-560m"]
        llama = models.CATALOGUE["llama-3.2-3b"]

        step("missing", llama.key, llama_rt)
        plain = replace(llama_rt, quantisation="none", attention="eager")  # the repository holds a BLOOM
        hub.add(llama.mirror, repository, revision="f" * 40)
        hub.add(llama.hub_id, repository, revision=llama.revision)
        step("mirror lost its commit", llama.key, plain, device_map="cpu")
        forget(llama.hub_id)
        del hub.repositories[llama.mirror]
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
        hub.add(llama.mirror, repository, revision=llama.mirror_revision)
        agreed = {"original": True, "mirror_if_refused": True}
        step("mirror if gated", llama.key, plain, device_map="cpu", **agreed)
        hub.fail = lambda request: 503 if llama.hub_id in request.path else None
        step("outage is no refusal", llama.key, plain, device_map="cpu", **agreed)
        hub.fail = lambda request: 401 if llama.hub_id in request.path else None
        step("wrong token", llama.key, plain, original=True, device_map="cpu")
        forget(llama.mirror)
        step("mirror if the token is wrong", llama.key, plain, device_map="cpu", **agreed)
        forget(llama.mirror)
        # The last to need the Hub, for it changes this process. Without a GPU Unsloth takes its CPU part.
        through_unsloth = replace(plain, backend="unsloth", dtype="float32")
        step("mirror by unsloth", llama.key, through_unsloth, **agreed)
    step("no network, in the cache", bloom.key, bloom_rt, device_map="cpu")
    step("no network", "phi-3-mini", replace(llama_rt, quantisation="none"))
    (weights,) = cache.glob("hub/models--bigscience--bloom-560m/snapshots/*/model.safetensors")
    os.truncate(weights, weights.stat().st_size // 2)
    step("damaged", bloom.key, bloom_rt, device_map="cpu")
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

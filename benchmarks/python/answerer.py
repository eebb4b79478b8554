"""A peer's side of the bench in Python: works are asked for, timed and read in lines of JSON (process-peer.ts, answerer.ts)."""

import json
import os
import sys

import numpy as np


def read_work(folder, convert):
    """spec.json, in which {"array": NAME, "type": T} stands for a file of raw values, given as `convert` makes them of NumPy's."""

    def array(value):
        if "array" not in value:
            return value
        kind = np.float32 if value["type"] == "f32" else np.int32
        return convert(np.fromfile(os.path.join(folder, value["array"]), dtype=kind))

    with open(os.path.join(folder, "spec.json"), encoding="utf8") as file:
        return json.load(file, object_hook=array)


def answer(prepare, introduction, facts={}):
    """Says who this is, then answers until the input ends.

    prepare(folder) gives a work, which has seconds() and result() (its outputs as lists or arrays), or None where there is no
    such op. `facts` go with each work.
    """
    works = []

    def reply(request):
        verb = request["do"]
        if verb == "work":
            work = prepare(request["folder"])
            works.append(work)
            return None if work is None else {"work": len(works) - 1, **facts}
        work = works[request["work"]]
        if verb == "seconds":
            return work.seconds()
        if verb == "result":
            outputs = work.result()
            for i, values in enumerate(outputs):
                np.asarray(values, dtype=np.float32).tofile(os.path.join(request["folder"], f"{i}.out"))
            return len(outputs)
        works[request["work"]] = None
        return None

    def send(message):
        print(json.dumps(message), flush=True)

    send(introduction)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            send({"id": request["id"], "value": reply(request)})
        except Exception as error:  # the bench prints it and leaves this work out
            send({"id": request["id"], "error": f"{type(error).__name__}: {error}"})

"""The candidates that each sampler leaves, computed again in plain numpy: tests/reference/sampling/cases.json.

    python tests/reference/make_sampling.py

It shares only the definitions with the runtime: no partial selection, DRY by comparing every place with every other, all
of a case's candidates in one array. Needs only numpy.
"""

import json
from pathlib import Path

import numpy as np

DEFAULTS = {
    "samplers": "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature",
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "top_n_sigma": -1.0,
    "xtc_probability": 0.0, "xtc_threshold": 0.1, "repeat_penalty": 1.0, "frequency_penalty": 0.0,
    "presence_penalty": 0.0, "repeat_last_n": 64, "dry_multiplier": 0.0, "dry_base": 1.75, "dry_allowed_length": 2,
    "dry_penalty_last_n": -1, "dry_breakers": [], "mirostat": 0, "mirostat_ent": 5.0, "mirostat_lr": 0.1,
    "logit_bias": [], "seed": 0,
}
MASK = (1 << 64) - 1


class SplitMix64:
    def __init__(self, seed):
        self.state = seed

    def unit(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) >> 11) / (1 << 53)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def f32(x):
    """An option's value as the runtime stores it."""
    return float(np.float32(x))


def penalties(o, ids, x, history):
    window = history[-o["repeat_last_n"]:] if o["repeat_last_n"] else []
    for i, token in enumerate(ids):
        count = window.count(int(token))
        if count:
            x[i] = x[i] / f32(o["repeat_penalty"]) if x[i] > 0 else x[i] * f32(o["repeat_penalty"])
            x[i] -= count * f32(o["frequency_penalty"]) + f32(o["presence_penalty"])
    return ids, x


def dry(o, ids, x, history):
    if o["dry_multiplier"] == 0 or o["dry_base"] < 1 or o["dry_penalty_last_n"] == 0:
        return ids, x
    window = history if o["dry_penalty_last_n"] < 0 else history[-o["dry_penalty_last_n"]:]
    n = len(window)
    # The latest place where a whole breaker begins. Only the tokens after it count.
    after = 0
    for start in range(n - 1, -1, -1):
        whole = [b for b in o["dry_breakers"] if window[start:start + len(b)] == b]
        if whole:
            after = start + max(map(len, whole))
            break
    limit = n - after
    if limit < o["dry_allowed_length"]:
        return ids, x
    longest = {}
    for end in range(1, n):
        same = 0
        while same < end and window[end - 1 - same] == window[n - 1 - same]:
            same += 1
        same = min(same, limit)
        if same >= o["dry_allowed_length"]:
            token = window[end]
            longest[token] = max(same, longest.get(token, 0))
    base = f32(o["dry_base"])
    most = int(88.7228391 / np.log(base)) if base > 1.000001 else n
    for i, token in enumerate(ids):
        if int(token) in longest and [int(token)] not in o["dry_breakers"]:
            x[i] -= f32(o["dry_multiplier"]) * base ** min(longest[int(token)] - o["dry_allowed_length"], most)
    return ids, x


def top_n_sigma(o, ids, x, history):
    if o["top_n_sigma"] <= 0:
        return ids, x
    keep = x >= x.max() - f32(o["top_n_sigma"]) * x.std()
    return ids[keep], x[keep]


def ranked(ids, x):
    order = np.lexsort((ids, -x))
    return ids[order], x[order]


def top_k(o, ids, x, history):
    ids, x = ranked(ids, x)
    k = o["top_k"] or len(ids)
    return ids[:k], x[:k]


def typical(o, ids, x, history):
    if o["typical_p"] >= 1:
        return ids, x
    ids, x = ranked(ids, x)
    p = softmax(x)
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    order = np.argsort(np.abs(-np.log(p) - entropy), kind="stable")
    cumulative = np.cumsum(p[order])
    enough = np.nonzero(cumulative > f32(o["typical_p"]))[0]
    nearest = order[: enough[0] + 1] if len(enough) else order
    return ids[nearest], x[nearest]


def top_p(o, ids, x, history):
    if o["top_p"] >= 1:
        return ids, x
    ids, x = ranked(ids, x)
    enough = np.nonzero(np.cumsum(softmax(x)) >= f32(o["top_p"]))[0]
    last = enough[0] + 1 if len(enough) else len(ids)
    return ids[:last], x[:last]


def min_p(o, ids, x, history):
    p = softmax(x)
    keep = p >= f32(o["min_p"]) * p.max()
    return ids[keep], x[keep]


def xtc(o, ids, x, history):
    if o["xtc_probability"] <= 0 or o["xtc_threshold"] > 0.5:
        return ids, x
    chance = o["random"].unit()
    if chance > f32(o["xtc_probability"]):
        return ids, x
    ids, x = ranked(ids, x)
    above = int((softmax(x) >= f32(o["xtc_threshold"])).sum())
    if above < 2:
        return ids, x
    return ids[above - 1:], x[above - 1:]


def temperature(o, ids, x, history):
    if o["temperature"] == 0:
        ids, x = ranked(ids, x)
        return ids[:1], x[:1]
    return ids, x / f32(o["temperature"])


STEPS = {"penalties": penalties, "dry": dry, "top_n_sigma": top_n_sigma, "top_k": top_k, "typ_p": typical,
         "top_p": top_p, "min_p": min_p, "xtc": xtc, "temperature": temperature}


def distribution(o, logits, history):
    """The ids that are left with their probabilities, the likeliest first."""
    x = logits.astype(np.float64)
    for token, bias in o["logit_bias"]:
        x[token] += -np.inf if bias == "-inf" else f32(bias)
    ids = np.arange(len(x))
    names = ["temperature"] if o["mirostat"] else [n for n in o["samplers"].split(";") if n]
    ids, x = ids[x > -np.inf], x[x > -np.inf]
    for name in names:
        ids, x = STEPS[name](o, ids, x.copy(), history)
    ids, x = ranked(ids, x)
    if o["mirostat"]:
        kept = max(1, int((-np.log2(softmax(x)) <= o["mu"]).sum()))
        ids, x = ids[:kept], x[:kept]
    return ids, softmax(x)


def case(rng, name, steps=0, history_of=24, spread=3.0, n=48, repeat=False, **options):
    o = DEFAULTS | options
    o |= {"random": SplitMix64(o["seed"]), "mu": 2 * f32(o["mirostat_ent"])}
    logits = (rng.standard_normal(n) * spread).round(3).astype(np.float32)
    history = [int(t) for t in rng.integers(0, 12, history_of)]
    if repeat:
        history = (history[:9] + history[2:9] + history[:5] + history[2:8])[:64]
    out = {"name": name, "options": options, "logits": [float(f"{v:.3f}") for v in logits], "history": history}
    if not steps:
        ids, p = distribution(o, logits, history)
        out["expected"] = [[int(i), float(v)] for i, v in zip(ids, p)]
        return out
    # Draws, each of which adds its token to the history.
    drawn, history = [], list(history)
    for _ in range(steps):
        ids, p = distribution(o, logits, history)
        unit = o["random"].unit()
        at = min(int(np.searchsorted(np.cumsum(p), unit, side="right")), len(ids) - 1)
        # A number this near to an edge could fall on either side by the last bit of an exponential.
        assert np.abs(np.cumsum(p)[:-1] - unit).min(initial=1.0) > 1e-9, name
        drawn.append(int(ids[at]))
        history.append(int(ids[at]))
        if o["mirostat"]:
            o["mu"] -= f32(o["mirostat_lr"]) * (-np.log2(p[at]) - f32(o["mirostat_ent"]))
    out["drawn"] = drawn
    return out


def main():
    rng = np.random.default_rng(20)
    c = lambda name, **options: case(rng, name, **options)
    cases = [
        c("nothing but the draw"),
        *[c(f"temperature {t}", temperature=t) for t in (0.0, 0.3, 1.7)],
        *[c(f"top_k {k}", top_k=k) for k in (1, 5, 100)],
        *[c(f"top_p {p}", top_p=p) for p in (0.0, 0.3, 0.8, 0.99)],
        *[c(f"min_p {p}", min_p=p) for p in (0.01, 0.2, 1.0)],
        *[c(f"typical_p {p}", typical_p=p) for p in (0.0, 0.2, 0.7, 0.95)],
        *[c(f"top_n_sigma {s}", top_n_sigma=s) for s in (0.0, 0.5, 1.5, 3.0)],
        *[c(f"xtc {p} {t} seed {s}", xtc_probability=p, xtc_threshold=t, spread=1.0, seed=s)
          for p, t, s in ((1.0, 0.03, 1), (1.0, 0.05, 2), (0.5, 0.02, 3), (0.5, 0.02, 4), (0.5, 0.02, 5), (1.0, 0.5, 6),
                          (1.0, 0.51, 7))],
        c("repeat penalty", repeat_penalty=1.3),
        c("repeat penalty below 1", repeat_penalty=0.7),
        c("frequency penalty", frequency_penalty=0.4),
        c("presence penalty", presence_penalty=1.1),
        c("a negative presence penalty", presence_penalty=-0.6, frequency_penalty=-0.2),
        c("all three, a short window", repeat_penalty=1.2, frequency_penalty=0.3, presence_penalty=0.5, repeat_last_n=7),
        c("no window", repeat_penalty=1.2, repeat_last_n=0),
        *[c(f"dry {i}", repeat=True, dry_multiplier=0.8, **o) for i, o in enumerate((
            {}, {"dry_allowed_length": 4}, {"dry_base": 1.2, "dry_allowed_length": 1}, {"dry_penalty_last_n": 12},
            {"dry_allowed_length": 0}, {"dry_penalty_last_n": 0}, {"dry_base": 0.9}, {"dry_base": 1.0}))],
        c("logit bias", logit_bias=[[3, 5.0], [7, -5.0], [3, 1.5], [9, "-inf"]]),
        c("logit bias of a seen token", logit_bias=[[1, 4.0], [2, "-inf"]], repeat_penalty=1.5),
        c("the default chain", temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
        c("every step", temperature=0.8, top_k=30, top_p=0.95, min_p=0.02, typical_p=0.9, top_n_sigma=2.0, spread=1.5,
          xtc_probability=1.0, xtc_threshold=0.1, repeat_penalty=1.1, frequency_penalty=0.1, presence_penalty=0.1,
          dry_multiplier=0.8, repeat=True),
        c("the temperature first", samplers="temperature;top_k;top_p;min_p", temperature=2.0, top_k=20, top_p=0.6),
        c("penalties last", samplers="top_k;top_p;penalties;dry", top_k=12, repeat_penalty=2.0, dry_multiplier=1.0,
          repeat=True),
        c("greedy after a typical choice", typical_p=0.4, temperature=0.0),
        c("greedy after xtc", xtc_probability=1.0, xtc_threshold=0.02, spread=1.0, temperature=0.0),
        c("an empty chain", samplers="", temperature=0.0, top_k=3),
        c("mirostat's beginning", mirostat=2, mirostat_ent=1.0),
        c("mirostat keeps one", mirostat=2, mirostat_ent=0.0),
        *[c(f"mirostat {tau} {eta}", steps=40, mirostat=2, mirostat_ent=tau, mirostat_lr=eta, temperature=0.9, spread=1.5,
            seed=9) for tau, eta in ((2.0, 0.1), (3.0, 0.5), (5.0, 0.1))],
        c("draws of the default chain", steps=40, temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, seed=7),
        c("draws of every step", steps=60, temperature=0.8, top_k=30, top_p=0.95, min_p=0.02, typical_p=0.95,
          top_n_sigma=2.5, spread=1.5, xtc_probability=0.5, xtc_threshold=0.05, repeat_penalty=1.1,
          frequency_penalty=0.1, presence_penalty=0.1, dry_multiplier=0.8, seed=8),
    ]
    # DRY's breakers come from the history itself; others would never occur.
    for i, width in enumerate((1, 2, 3)):
        made = case(np.random.default_rng(50 + i), "", repeat=True)["history"]
        at = len(made) - 5
        cases.append(case(np.random.default_rng(50 + i), f"dry breaker of {width}", repeat=True, dry_multiplier=1.0,
                          dry_allowed_length=1, dry_breakers=[made[at:at + width], [made[at], 47]]))
    # A token that is a breaker gets no penalty. Here it does not end the repetition itself.
    made = case(np.random.default_rng(60), "", repeat=True)["history"]
    follows = next(made[i] for i in range(len(made) - 1, 2, -1) if made[i - 2:i] == made[-2:])
    for name, o in (("breaker that would continue", {"dry_breakers": [[follows]]}), ("without it", {})):
        cases.append(case(np.random.default_rng(60), f"dry {name}", repeat=True, dry_multiplier=1.0, dry_allowed_length=1,
                          **o))
    names = [case["name"] for case in cases]
    assert len(set(names)) == len(names)
    path = Path(__file__).parent / "sampling" / "cases.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    print(f"{len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

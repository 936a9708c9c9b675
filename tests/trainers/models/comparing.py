"""Compare small models: what they answer, and what they write."""

import torch

from sharetune.trainers.models.sample_inputs import samples


def close(found, expected):
    return torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


def written(model, use_cache):
    ids = samples(model)[0]["input_ids"][:1, :5]
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    return model.generate(ids, **settings, use_cache=use_cache).tolist()

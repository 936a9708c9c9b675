"""Serve a GGUF file by llama.cpp over HTTP until standard input ends: a process of its own.

python llama_cpp_server.py FILE SETTINGS

prints the address. SETTINGS are the fields of `llama_cpp.Serving` as JSON. A file that llama.cpp
cannot run ends this process, not the one that asks.
"""

import json
import sys


def main(file: str, *, context: int, threads: int, exact: bool) -> None:
    """Serve `file` with room for `context` tokens."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.verbosity = file, -1
    params.n_ctx, params.n_parallel, params.warmup = context, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
